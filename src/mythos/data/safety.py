"""The project's own exchanges about what is refused and what is not, as training text."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict

from mythos.data.build import is_held_out
from mythos.data.documents import Document, Opened
from mythos.data.prompts import Exchange, safety

SOURCE = "safety"


def exchanges() -> list[Exchange]:
    """Those that are trained on: a few are held out, as of every corpus."""
    return [one for one in safety() if not is_held_out(_group(one))]


def exchanges_sha256() -> str:
    """A digest over all exchanges."""
    return hashlib.sha256(json.dumps([asdict(one) for one in safety()]).encode()).hexdigest()


def safety_chats() -> Opened:
    """Each exchange as a request and its answer."""

    def documents() -> Iterator[Document]:
        for one in safety():
            messages = (
                {"role": "user", "content": one.text},
                {"role": "assistant", "content": one.answer},
            )
            yield Document(SOURCE, one.id, _group(one), messages=messages)

    facts = {"package": "mythos.data.prompts", "licence": "Apache-2.0", "sha256": exchanges_sha256()}
    return Opened(facts, documents())


def _group(one: Exchange) -> str:
    return f"safety:{one.id}"
