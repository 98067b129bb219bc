// What a page gains where scripts run. Everything works without it.
document.addEventListener("DOMContentLoaded", () => copies(document));
document.addEventListener("htmx:after:swap", () => {
  copies(document);
  // A form was answered in place: put the reader where the answer is.
  const said = document.querySelector("[data-said]");
  if (said) said.focus();
});

function copies(root) {
  if (!navigator.clipboard) return;
  for (const text of root.querySelectorAll("pre[data-copy]")) {
    text.removeAttribute("data-copy");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    });
    text.after(button);
  }
}
