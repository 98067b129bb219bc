"""A town with the web console: the gate signs where the console runs, persons on machines of their own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mythos.console.app import create_console_app
from mythos.console.sessions import SessionBook
from mythos.records.dsse import add_signature
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.vault_front import VaultService
from mythos.store.home import write_private
from mythos.store.keys import create_key
from tests.gate.town import STAFF
from tests.vault.world import ORGS, VaultTown

TOKEN = re.compile(r'name="token" value="([^"]+)"')
DRAFT = re.compile(r"&#39;END&#39;\n(.+?)\nEND|'END'\n(.+?)\nEND", re.S)


class ConsoleTown(VaultTown):
    """As `VaultTown`, with the gate's key where the console finds it and a key for each organisation."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        pem = self.gate.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(self.home.keys / "operator.key", pem, replace=False)
        self.api = {org: create_key(*self.place, "k", org=org, purpose="review")[1] for org in ORGS}
        self.api["local"] = create_key(*self.place, "mine")[1]

    def persons_machine(self, path: Path, person: str) -> dict[str, str]:
        """A machine of a person's own, that has their key and knows nothing else: its environment."""
        home, keys = path / person / "home", path / person / "keys"
        for place in (home, keys, keys / "persons"):
            place.mkdir(parents=True, mode=0o700)
        pem = self.keys[person].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(keys / "persons" / f"{person}.{STAFF[person]}.key", pem, replace=False)
        return {"MYTHOS_HOME": str(home), "MYTHOS_KEYS": str(keys)}


@contextmanager
def console(town: VaultTown, book: SessionBook | None = None) -> Iterator[str]:
    """The console, running: its base URL."""
    app = create_console_app(VaultService(town.store, town.clock), book)
    with bind("127.0.0.1", 0) as listener, running(app, listener) as base_url:
        yield base_url


@dataclass(eq=False)
class Browser:
    """What a browser does without scripts: keeps cookies, says where its forms come from."""

    http: httpx.Client
    base_url: str

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers=headers, follow_redirects=True)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        return self.http.post(path, data=fields, headers={"origin": self.base_url, **headers})

    def sign_in(self, key: str) -> httpx.Response:
        return self.post("/vault", {"key": key})

    def token(self) -> str:
        found = TOKEN.search(self.get("/vault").text)
        return found.group(1) if found else ""

    def send(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """A form of ours, with its token; what it leads to."""
        answer = self.post(path, {"token": self.token(), **fields})
        return self.get(answer.headers["location"]) if answer.status_code == 303 else answer


@contextmanager
def browser(base_url: str, key: str = "") -> Iterator[Browser]:
    with httpx.Client(base_url=base_url, timeout=60) as http:
        made = Browser(http, base_url)
        if key:
            assert made.sign_in(key).status_code == 303
        yield made


def signed(town: VaultTown, shown: str, person: str) -> str:
    """The statement that a page shows, signed by a person."""
    found = DRAFT.search(shown)
    assert found
    text = (found.group(1) or found.group(2)).replace("&#34;", '"')
    return add_signature(text.encode(), town.keys[person]).decode()
