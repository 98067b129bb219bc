"""Receipts: what one answer was, signed by the server that gave it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """`decision` is a handling or release decision; `prompt` and `answer` are salted SHA-256 digests.

    Only the caller gets the salts, so nobody else can test a guess against them. `leaf` is the ledger's seq
    of the attempt. `deployment` is "" where no trust root exists (a laptop's own operator).
    """

    id: str
    deployment: str
    server: str  # key id
    family: str
    tier: str
    asked: str  # the tier named in the request; another than `tier` when a fallback answered
    root: str
    profile: str
    mode: str
    backend: str
    decision: str
    purpose: str
    prompt: str
    answer: str
    parameters: str  # salted digest of sampling parameters, prompt tokens, seed
    finish: str
    input_tokens: int
    output_tokens: int
    time: float
    leaf: int
