"""The half of the adapter for cases with weights on disk and real requests. Only this half imports torch."""

import json
import os
import re
import shutil
import threading
import unicodedata
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
from cryptography.hazmat.primitives import serialization

from mythos.engine.loader import Loader, NotAllowed
from mythos.gate.authorize import load_standing
from mythos.model import weights_dir
from mythos.model.errors import WeightsError
from mythos.records.principal import OPERATOR
from mythos.serve.settings import Settings
from mythos.spec.family import Family
from mythos.store.copies import reconcile
from mythos.store.home import write_private
from mythos.store.keys import create_key, revoke_key
from mythos.store.profiles import put_profile
from mythos.store.weights_key import weights_keyring
from tests.gate.town import Town
from tests.guarded import ALWAYS, classifier, profile_for
from tests.serve.live import ENDLESS, Live, ask, chat, serve
from tests.serve.test_leaks import blurred
from tests.tiny import CONFIG, TEMPLATE, TinyHome, tiny_tensors, tiny_tier, tiny_tiers, tiny_tokenizer

TIERS = ("capybara", "opus")
CATEGORY = "cyber"  # of what the safeguards of these cases look for
REFUSALS = ("refusal", "content_filter")  # how an answer that tripped ends, in both forms


def with_weights(town: Town) -> None:
    """Random weights of two tiers, registered, and a server's key that is enrolled."""
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(town.home.keys_dir / "server.key", town.server.private_bytes(*pem), replace=False)
    tiny_tiers(town.home, town.store, town.clock, TIERS)


class Serving:
    """Weights, keys and the server of one town. The server starts with the first request."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.secrets: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.streams: dict[str, Stream] = {}
        self._live: Live | None = None
        self._running = ExitStack()

    @property
    def tiny(self) -> TinyHome:
        family = Family("tiny", "for tests", "none", tuple(tiny_tier(name) for name in TIERS))
        return TinyHome(self.town.home, self.town.store, self.town.clock, family)

    @property
    def live(self) -> Live:
        if self._live is None:
            engine = self._running.enter_context(self.tiny.engine())
            aliases = {"newest": "capybara"}
            self._live = self._running.enter_context(serve(self.tiny, engine, Settings(), aliases))
        return self._live

    def stop(self) -> None:
        self._live = None
        self._running.close()

    def roots(self) -> dict[str, str]:
        tiers = self.tiny.standing().family.tiers
        return {f"W{n}": str(tier.root) for n, tier in enumerate(tiers, 1)}

    # Weights.

    def load(self, tier: str, root: str, decision: Any) -> str:
        """Load weights under a decision: a release, or the operator's when there is none. OK or a code."""
        standing = load_standing(self.town.home, self.town.store, self.tiny.family)
        asked = tiny_tier(tier)
        try:
            loaded = Loader(self.town.home).load(
                replace(asked, root=root), decision or standing.decisions[tier]
            )
        except (WeightsError, NotAllowed) as error:
            return error.reason
        return "OK" if loaded.root == root else "OTHER_WEIGHTS"

    def damage(self, how: str, root: str, file: str, other: str) -> None:
        place = self.town.home.weights_dir(root)
        DAMAGE[how](place / file, self.town.home.weights_dir(other))

    def write(self, change: str, edit: tuple[str, str] | None) -> str:
        """Write weights that nobody decided about: quantised otherwise, or with an edited manifest."""
        tensors = tiny_tensors()
        if change == "quantised":
            tensors = {k: (v * 2 if k.endswith("scale") else v) for k, v in tensors.items()}
        parent, keyring = self.town.home.weights_dir("0" * 64).parent, weights_keyring(self.town.home)
        if edit is None:
            return weights_dir.write_weights(parent, keyring, CONFIG, tensors, tiny_tokenizer(), TEMPLATE)
        shutil.rmtree(parent / self.roots()["W1"])
        real = weights_dir.manifest_json

        def edited(manifest: Any) -> bytes:
            return re.sub(edit[0].encode(), edit[1].encode(), real(manifest))

        with mock.patch.object(weights_dir, "manifest_json", edited):
            return weights_dir.write_weights(parent, keyring, CONFIG, tensors, tiny_tokenizer(), TEMPLATE)

    def copies(self) -> str:
        there, gone = reconcile(self.town.home, self.town.store)
        return "COPY_NOT_REGISTERED" if there else "COPY_GONE" if gone else "OK"

    def profile(self, root: str, fallback: str, trips: bool) -> str:
        one = classifier(CATEGORY, input=ALWAYS) if trips else classifier(CATEGORY)
        made = profile_for(root, one, fallback=fallback)
        put_profile(self.town.home, made)
        return made.identity

    # Requests.

    def key(self, org: str, purpose: str, name: str) -> None:
        row, self.secrets[name] = create_key(
            self.town.store, self.town.clock, OPERATOR, name, org=org, purpose=purpose
        )
        self.ids[name] = row.id

    def revoke_key(self, name: str) -> None:
        revoke_key(self.town.store, self.town.clock, OPERATOR, self.ids[name])

    def send(self, key: str, method: str, path: str, form: str, **sent: Any) -> httpx.Response:
        secret = self.secrets.get(key, key)
        version = None if form == "chat" else "2023-06-01"
        with self.live.http(secret, version=version) as http:
            return http.request(method, path, **sent)

    def http(
        self,
        key: str,
        model: str,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        twin: str,
        **sent: Any,
    ) -> tuple[str, set[str]]:
        """GRANT when the tier that was asked for answers; else DENY with codes, LEAK when a made-up name
        (`twin`) is refused in other bytes."""
        form = "chat" if "chat" in path else "messages"
        got = self.send(key, method, path, form, **self._said(model, method, form, body, sent))
        if twin:
            other = path.replace(model, twin)
            unknown = self.send(key, method, other, form, **self._said(twin, method, form, body, sent))
            if blurred(got, model) != blurred(unknown, twin):
                return "LEAK", {str(got.status_code), str(unknown.status_code)}
        return verdict(got, model)

    def _said(
        self, model: str, method: str, form: str, body: dict[str, Any] | None, sent: dict[str, Any]
    ) -> dict[str, Any]:
        if method != "POST":
            return sent
        made = (chat if form == "chat" else ask)(model)
        return {**sent, "json": {**made, **(body or {})}}

    def stream(self, key: str, model: str, name: str, short: bool) -> None:
        body = ask(model, stream=True, **({} if short else ENDLESS))
        secret = self.secrets.get(key, key)
        self.streams[name] = Stream(partial(self.live.http, secret), body)


class Stream:
    """A running answer. Made once its first event is there."""

    def __init__(self, http: Callable[[], httpx.Client], body: dict[str, Any]) -> None:
        self.text = ""
        begun = threading.Event()

        def read() -> None:
            try:
                with http() as client, client.stream("POST", "/v1/messages", json=body) as got:
                    for piece in got.iter_text():
                        self.text += piece
                        begun.set()
            finally:
                begun.set()

        self._thread = threading.Thread(target=read, daemon=True)
        self._thread.start()
        begun.wait(60)

    def end(self) -> tuple[str, set[str]]:
        self._thread.join(60)
        whole = "message_stop" in self.text and not self._thread.is_alive()
        return ("GRANT", set()) if whole else ("DENY", {"withdrawn"} if "withdrawn" in self.text else set())


def verdict(got: httpx.Response, model: str) -> tuple[str, set[str]]:
    codes = {str(got.status_code)}
    if got.status_code >= 500:
        return "BROKEN", codes
    try:
        table = got.json()
    except json.JSONDecodeError:
        table = {}
    if got.status_code >= 400:
        error = table.get("error", {})
        codes |= {str(error.get(part)) for part in ("type", "code")}
        return "DENY", codes | set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", got.text))
    if "data" in table:
        listed = {entry["id"] for entry in table["data"]}
        return ("GRANT" if model in listed else "DENY"), codes | listed
    ends = [table.get("stop_reason"), *(c.get("finish_reason") for c in table.get("choices", ()))]
    named = table.get("model", model)
    codes |= {f"served:{named}", *[end for end in ends if end in REFUSALS]}
    own = named == model and not codes & {*REFUSALS}
    return ("GRANT", codes) if own else ("DENY", codes | {CATEGORY})


def flipped(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def blocks_swapped(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    a, b = len(data) // 3, 2 * len(data) // 3
    data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]
    path.write_bytes(data)


def files_swapped(path: Path, _: Path) -> None:
    other = path.with_name("chat_template.jinja.enc")
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


def symlinked(path: Path, _: Path) -> None:
    away = path.parent.parent / "away"
    path.rename(away)
    path.symlink_to(away)


def directory_linked(path: Path, _: Path) -> None:
    away = path.parent.parent.parent / "away"
    path.parent.rename(away)
    path.parent.symlink_to(away)


def sparse(path: Path, _: Path) -> None:
    data = path.read_bytes()
    with path.open("wb") as out:
        out.truncate(1 << 20)
        out.seek(1 << 20)
        out.write(data)


def all_of_another(path: Path, other: Path) -> None:
    shutil.rmtree(path.parent)
    shutil.copytree(other, path.parent)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, other: None,
    "bit flipped": flipped,
    "blocks swapped": blocks_swapped,
    "files swapped": files_swapped,
    "truncated": lambda path, other: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path, other: os.truncate(path, 0),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": lambda path, other: path.unlink(),
    "file of another root": lambda path, other: shutil.copy(other / path.name, path),
    "all of another root": all_of_another,
    "file added": lambda path, other: (path.parent / "pytorch_model.bin").write_bytes(b"\x80\x04."),
    "case twin": lambda path, other: path.with_name(path.name.capitalize()).write_bytes(b""),
    "unicode twin": lambda path, other: path.with_name(
        unicodedata.normalize("NFD", path.name.replace("k", "\u212a", 1))
    ).write_bytes(b""),
    "symlink": symlinked,
    "directory linked": directory_linked,
    "hard link": lambda path, other: os.link(path, path.parent.parent.parent / "second-name"),
    "sparse": sparse,
    "directory gone": lambda path, other: shutil.rmtree(path.parent),
    "copied aside": lambda path, other: shutil.copytree(path.parent, path.parent.parent / ("f" * 64)),
    "written in plain": lambda path, other: path.with_name("config.json").write_bytes(b"{}"),
}
