"""From messages to prompt tokens, so that no message can pass for the template.

A chat template marks turns by control tokens. Text of a message that names such a token stays text: before
rendering, a character that occurs nowhere else is put inside every such name; afterwards only whole names,
which the template alone can have written, become control tokens, and the character is taken out again. (A
template that writes "<|", a message and "|>" next to each other makes names on purpose: it is beyond this.)
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mythos.data.template import ChatError, render
from mythos.data.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # never assigned by Unicode, for internal use


def render_chat(
    template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
) -> str:
    """The prompt as text. Messages have a `role` of ROLES and a `content` of text.

    ChatError when the messages cannot be rendered (the template may refuse an order of roles), TemplateError
    when the template is at fault. To make tokens, use `encode_chat`.
    """
    return render(template, _checked(messages), add_generation_prompt)


def encode_chat(
    tokenizer: Tokenizer,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
) -> list[int]:
    """The prompt as tokens: those of the rendered text, but control tokens come from `template` only."""
    checked = _checked(messages)
    contents = [message["content"] for message in checked]
    mark = next((c for c in NONCHARACTERS if not any(c in text for text in (template, *contents))), None)
    if mark is None:
        raise ChatError("A message holds every Unicode noncharacter.", "Send text.")
    for message in checked:
        message["content"] = _break_control_names(message["content"], tokenizer.control_tokens, mark)
    text = render(template, checked, add_generation_prompt)
    ids: list[int] = []
    for part, control in _split(text, tokenizer.control_tokens):
        ids.extend(tokenizer.encode(part.replace(mark, ""), special=control))
    return ids


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    if not messages:
        raise ChatError("There are no messages.", "Send at least one.")
    checked = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ChatError(f"Message {index} has the role {role!r}.", f"Use one of {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise ChatError(f"The content of message {index} is not text.", "Send text.")
        checked.append({"role": role, "content": content})
    return checked


def _break_control_names(text: str, names: Sequence[str], mark: str) -> str:
    """`text` with `mark` between the first two and the last two characters of anything like a control token.

    Both ends are broken, so that neither a name cut off by the message's end nor one begun by the template
    becomes whole when the template joins the two.
    """
    pairs = {name[:2] for name in names} | {name[-2:] for name in names}
    pattern = "|".join(f"(?<={re.escape(pair[0])})(?={re.escape(pair[1:])})" for pair in sorted(pairs))
    text = re.sub(pattern, mark, text) if pairs else text
    # A lone first or last character at the edge could be completed by what stands beside it; also when
    # the template takes off blanks first.
    edges = "".join(map(re.escape, sorted({name[0] for name in names} | {name[-1] for name in names})))
    if edges:
        text = re.sub(rf"[{edges}](?=\s*\Z)", rf"\g<0>{mark}", text)
        text = re.sub(rf"\A\s*(?=[{edges}])", rf"\g<0>{mark}", text)
    return text


def _split(text: str, names: Sequence[str]) -> list[tuple[str, bool]]:
    """`text` in parts, each with whether it is the name of a control token."""
    if not names:
        return [(text, False)]
    longest_first = sorted(names, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    return [(part, bool(index % 2)) for index, part in enumerate(parts) if part]
