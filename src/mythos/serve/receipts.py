"""One receipt for every answer: drafted when it begins, signed when it has ended, stored with what it used.

Its id goes out with the first byte; until the recorder's batch is on disk it is pending, and an answer's end
is not sent before. Prompt, answer and parameters stand in it as salted digests; the salts are the caller's.
"""

import hashlib
import secrets
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mythos.engine.request import Delta, Done, Request
from mythos.gate.bundle import receipt_document
from mythos.ledger.log import now_in
from mythos.records.bundle import salted
from mythos.records.canonical import canonical
from mythos.records.dsse import key_id
from mythos.records.permit import Permit
from mythos.records.principal import Principal
from mythos.records.receipt import Receipt
from mythos.records.signed import seal
from mythos.serve.asked import ASSISTANT, Asked, messages_of
from mythos.store.receipts import find_receipt, store_receipt

if TYPE_CHECKING:
    from mythos.serve.call import Call
    from mythos.serve.service import Service

SALT_BYTES = 16


@dataclass(slots=True, eq=False)
class Draft:
    """What a receipt will say of a running answer. The service keeps it until it is on disk, or failed."""

    call: "Call"
    asked: Asked
    permit: Permit
    request: Request
    leaf: int = -1  # the attempt's place in the ledger; -1 while unknown, or when a flood is only counted
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.call.receipt

    def at(self, seq: int) -> None:
        self.leaf = seq

    def add(self, delta: Delta) -> None:
        self.text.append(delta.text)
        self.tokens.extend(delta.tokens)


def write_receipt(draft: Draft, done: Done, conn: sa.Connection) -> None:
    """Sign the receipt of an answer that has ended and store it, in the transaction of `conn`."""
    service, permit, model = draft.call.service, draft.permit, draft.asked.model
    key = service.receipt_key
    salts = {name: secrets.token_hex(SALT_BYTES) for name in ("prompt", "answer", "parameters")}
    value = parameters(draft, salts["prompt"], salts["answer"])
    receipt = Receipt(
        id=draft.id,
        deployment=service.deployment,
        server=key_id(key.public_key()),
        family=service.family.name,
        tier=permit.tier,
        asked=service.aliases.get(model, model),
        root=permit.root,
        profile=permit.profile,
        mode=done.mode,
        backend=done.backend,
        decision=permit.decision,
        purpose=permit.purpose,
        prompt=salted(salts["prompt"], token_bytes(draft.request.prompt)),
        answer=salted(salts["answer"], "".join(draft.text).encode()),
        parameters=salted(salts["parameters"], canonical(value)),
        finish=done.finish.value,
        input_tokens=done.prompt_tokens,
        output_tokens=done.completion_tokens,
        time=now_in(conn, service.clock),
        leaf=draft.leaf,
    )
    opening = {**salts, "value": value}
    store_receipt(conn, service.clock, permit.principal, draft.id, seal(receipt, key), opening)


def receipt_for(service: "Service", caller: Principal, receipt_id: str) -> bytes | None:
    """The document of a receipt of `caller`'s; None for one of somebody else's, or of nobody's. Blocks."""
    draft = service.drafts.get(receipt_id)  # before the look on disk: it is there when it is here no more
    if draft is not None:
        own = draft.permit.principal
        if (own.id, own.org) != (caller.id, caller.org):
            return None
        return canonical({"id": receipt_id, "status": "pending"})
    stored = find_receipt(service.store, caller, receipt_id)
    return None if stored is None else receipt_document(service.home, service.store, service.clock, stored)


def parameters(draft: Draft, prompt_salt: str, answer_salt: str) -> dict[str, Any]:
    """What else decided the answer; and second digests, of the messages as asked and the answer's tokens."""
    request, grammar = draft.request, draft.request.grammar
    sampling = {
        name: value if name != "seed" else str(value) for name, value in asdict(request.sampling).items()
    }
    return {
        "surface": draft.call.path,
        "sampling": sampling,  # the seed as text: JSON's numbers end at 2**53
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "grammar": "" if grammar is None else hashlib.sha256(grammar.encode()).hexdigest(),
        "messages": salted(prompt_salt, canonical(messages_asked(draft.asked))),
        "answer_tokens": salted(answer_salt, token_bytes(draft.tokens)),
    }


def differences(draft: Draft, receipt: Receipt, opening: Mapping[str, Any]) -> list[str]:
    """What of an answer given again is not what `receipt` says, by the salts of its opening."""
    value = opening["value"]
    again = parameters(draft, opening["prompt"], opening["answer"])
    same = {
        "root": draft.permit.root == receipt.root,
        "prompt": salted(opening["prompt"], token_bytes(draft.request.prompt)) == receipt.prompt,
        "text": salted(opening["answer"], "".join(draft.text).encode()) == receipt.answer,
    }
    same |= {name: again[name] == value.get(name) for name in again}
    return [name for name, alike in same.items() if not alike]


def messages_asked(asked: Asked) -> list[dict[str, str]]:
    """What the chat template rendered; an answer begun by the caller is the last message."""
    begun = [{"role": ASSISTANT, "content": asked.prefill}] if asked.prefill else []
    return messages_of(asked) + begun


def token_bytes(tokens: "tuple[int, ...] | list[int]") -> bytes:
    """Token ids, each in four bytes, little-endian: what the digests of a prompt and an answer are over."""
    return struct.pack(f"<{len(tokens)}I", *tokens)
