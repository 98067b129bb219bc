"""A running server over real HTTP, for the tests of this directory."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from mythos.records.principal import OPERATOR
from mythos.serve.server import bind, make_server
from mythos.serve.service import Service
from mythos.serve.settings import Settings
from mythos.store.keys import create_key
from tests.tiny import TinyHome

OLD, NEW = "2023-06-01", "2026-10-21"
SESSION_KEY = "sk-mythos-session-key-of-the-tests"


@dataclass(frozen=True, slots=True)
class Live:
    """`key` dies with the server, `stored` lies in the database, `foreign` is another organisation's."""

    base_url: str
    service: Service
    key: str
    stored: str
    foreign: str

    @property
    def port(self) -> int:
        return int(self.base_url.rsplit(":", 1)[1])

    def http(self, key: str | None = None, version: str | None = OLD, **headers: str) -> httpx.Client:
        sent = {"x-api-key": self.key if key is None else key}
        if version is not None:
            sent["anthropic-version"] = version
        return httpx.Client(base_url=self.base_url, headers={**sent, **headers}, timeout=60)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextmanager
def serve(tiny: TinyHome, engine, settings: Settings | None = None, aliases=None) -> Iterator[Live]:
    """A server on a free port around `engine`, until the block ends."""
    session = {hashlib.sha256(SESSION_KEY.encode()).hexdigest(): OPERATOR}
    service = Service(tiny.home, tiny.store, tiny.clock, tiny.family, engine, settings or Settings(), session)
    stored = create_key(tiny.store, tiny.clock, OPERATOR, "mine")[1]
    foreign = create_key(tiny.store, tiny.clock, OPERATOR, "theirs", org="acme")[1]
    ready = threading.Event()
    server = make_server(service, ready.set, aliases)
    listener = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert ready.wait(30), "the server did not start"
    try:
        port = listener.getsockname()[1]
        yield Live(f"http://127.0.0.1:{port}", service, SESSION_KEY, stored, foreign)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


# An answer that goes on until max_tokens: its schema lets no end of turn come before.
ENDLESS = {
    "max_tokens": 1024,
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "string", "minLength": 5000}}},
}


def ask(model: str = "small", **more) -> dict:
    """A small Messages request."""
    return {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}], **more}


def chat(model: str = "small", **more) -> dict:
    """A small chat completions request."""
    return {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}], **more}
