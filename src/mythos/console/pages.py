"""Making a page: templates, how times and sizes are written, and where the files beside the pages are."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mythos.console.sessions import Session
from mythos.gate.submit import load_state
from mythos.records.principal import Principal, is_operator
from mythos.serve.vault_front import VaultService

PLACE = Path(__file__).parent
MEDIA = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HTML = (b"content-type", b"text/html; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is signed in. `form` is what they sent, its token checked already."""

    service: VaultService
    principal: Principal
    session: Session
    method: str
    path: dict[str, str]  # the parts that a route names
    query: dict[str, str]
    form: dict[str, str]
    headers: dict[bytes, bytes]

    @property
    def place(self) -> tuple[Any, Any, Principal]:
        """(store, clock, principal), as every function of the vault begins."""
        return self.service.store, self.service.clock, self.principal

    @property
    def now(self) -> float:
        return self.service.clock.now()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def page(visit: Visit, template: str, values: dict[str, Any], status: int = 200) -> Answer:
    """A page for somebody who is signed in, with what there is to say since the last one."""
    said, visit.session.said = visit.session.said, ""
    text = _environment().get_template(template).render({**_frame(visit), "said": said, **values})
    return Answer(status, (HTML,), text.encode())


def bare_page(template: str, values: dict[str, Any], status: int) -> Answer:
    """A page for somebody unknown: the sign-in, and refusals."""
    text = _environment().get_template(template).render(values)
    return Answer(status, (HTML,), text.encode())


def lead(visit: Visit, path: str, said: str = "") -> Answer:
    """Lead on to another page of ours, which says `said`."""
    visit.session.said = said or visit.session.said
    return Answer(303, ((b"location", path.encode()),), b"")


@cache
def files() -> dict[str, tuple[bytes, bytes]]:
    """Media type and bytes by path of each file beside the pages: no path of a request is ever opened."""
    found = {}
    for file in sorted((PLACE / "static").iterdir()):
        if file.suffix in MEDIA:
            found[f"/static/{file.name}"] = (MEDIA[file.suffix].encode(), file.read_bytes())
    return found


def when(seconds: float) -> Markup:
    """A time for a person, in UTC."""
    at = datetime.fromtimestamp(seconds, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        f"{at:%Y-%m-%dT%H:%M:%SZ}", f"{at:%Y-%m-%d %H:%M} UTC"
    )


def size(count: int) -> str:
    """Bytes for a person, in powers of 1000."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count} {units[0]}" if value == count else f"{value:.1f} {units[0]}"


def words(value: object) -> str:
    """A word of ours for a person: `evaluation_log` is "evaluation log"."""
    return str(value).replace("_", " ")


def _frame(visit: Visit) -> dict[str, Any]:
    """What stands around every page. The parts of the console that are not for this reader are not named."""
    state = load_state(visit.service.store)
    parts = [("/vault", "Vault"), ("/publications", "Publications")]
    if is_operator(visit.principal):
        parts += [("/audit", "Audit"), ("/incidents", "Incidents")]
    return {
        "parts": parts,
        "who": visit.principal,
        "operator": is_operator(visit.principal),
        "drill": state.drill,
        "token": visit.session.token,
    }


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(PLACE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"when": when, "size": size, "words": words}
    made.globals["query"] = lambda pairs: "?" + urlencode(pairs)
    return made
