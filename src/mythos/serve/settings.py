"""What an operator may set about the HTTP surface. The defaults suit one laptop and its owner."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Per organisation: three budgets that refill evenly over a minute, and answers at the same time."""

    requests: int = 3_000
    input_tokens: int = 4_000_000
    output_tokens: int = 1_000_000
    concurrent: int = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """`strict` refuses what would otherwise be ignored and named (unknown fields, beta flags).

    `require_version` False lets a request without `anthropic-version` through under the old rules.
    Sizes in bytes, times in seconds.
    """

    limits: Limits = Limits()
    strict: bool = False
    require_version: bool = True
    body_bytes: int = 32 * 2**20
    json_depth: int = 100
    body_seconds: float = 30.0  # for a whole body to arrive
    write_seconds: float = 30.0  # for a client to take what was written
    ping_seconds: float = 5.0  # of silence before the first token
    drain_seconds: float = 20.0  # for running answers when the server stops
    lease_seconds: float = 30.0  # that a server answers for without having read its records
    head_seconds: float = 60.0  # that events wait, at most, for a signed tree head
