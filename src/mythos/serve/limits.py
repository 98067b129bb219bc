"""Budgets of an organisation: requests and tokens by the minute, answers at the same time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from mythos.serve.errors import ApiError, Dialect
from mythos.serve.settings import Limits


@dataclass(slots=True)
class Budget:
    """`size` units that refill evenly over 60 seconds. Spending may overdraw it; waiting pays."""

    size: int
    left: float
    at: float  # seconds, monotonic

    def refill(self, now: float) -> None:
        self.left = min(float(self.size), self.left + (now - self.at) * self.size / 60)
        self.at = now

    def seconds_until(self, level: float) -> float:
        return max(0.0, (level - self.left) * 60 / self.size)

    @property
    def remaining(self) -> int:
        return max(0, int(self.left))


@dataclass(slots=True)
class Account:
    """What one organisation has left."""

    requests: Budget
    input: Budget
    output: Budget
    running: int = 0


@dataclass(slots=True)
class LimitBook:
    """Accounts by organisation. An organisation comes from a valid credential only, so there are few."""

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    accounts: dict[str, Account] = field(default_factory=dict)

    def account(self, org: str) -> Account:
        now = self.clock()
        account = self.accounts.get(org)
        if account is None:
            account = Account(
                requests=Budget(self.limits.requests, self.limits.requests, now),
                input=Budget(self.limits.input_tokens, self.limits.input_tokens, now),
                output=Budget(self.limits.output_tokens, self.limits.output_tokens, now),
            )
            self.accounts[org] = account
        for budget in (account.requests, account.input, account.output):
            budget.refill(now)
        return account

    def take_request(self, org: str) -> None:
        """Spend one request. ApiError 429 when there is none left."""
        account = self.account(org)
        if account.requests.left < 1:
            raise _refused("requests per minute", self.limits.requests, account.requests.seconds_until(1))
        account.requests.left -= 1

    def begin(self, org: str, prompt_tokens: int) -> None:
        """Spend a prompt's tokens and take a place among the running answers. ApiError 429.

        The place is given back by `end`.
        """
        account = self.account(org)
        if account.running >= self.limits.concurrent:
            raise _refused("answers at the same time", self.limits.concurrent, 1)
        need = min(prompt_tokens, self.limits.input_tokens)  # a full budget lets any single prompt pass
        if account.input.left < need:
            raise _refused(
                "input tokens per minute", self.limits.input_tokens, account.input.seconds_until(need)
            )
        if account.output.left < 1:
            raise _refused(
                "output tokens per minute", self.limits.output_tokens, account.output.seconds_until(1)
            )
        account.input.left -= prompt_tokens
        account.running += 1

    def end(self, org: str, cached_tokens: int, output_tokens: int) -> None:
        """An answer is over: cached prompt tokens are given back, generated ones spent."""
        account = self.account(org)
        account.running -= 1
        account.input.left = min(float(account.input.size), account.input.left + cached_tokens)
        account.output.left -= output_tokens

    def headers(self, org: str, dialect: Dialect) -> list[tuple[bytes, bytes]]:
        """The rate-limit headers of a dialect."""
        account = self.account(org)
        if dialect is Dialect.OPENAI:
            tokens = min(account.input, account.output, key=lambda b: b.remaining)
            rows = [("requests", account.requests), ("tokens", tokens)]
            return [pair for name, budget in rows for pair in _openai(name, budget)]
        now = datetime.now(UTC)
        rows = [
            ("requests", account.requests),
            ("input-tokens", account.input),
            ("output-tokens", account.output),
            ("tokens", min(account.input, account.output, key=lambda b: b.remaining)),
        ]
        return [pair for name, budget in rows for pair in _anthropic(name, budget, now)]


def _anthropic(name: str, budget: Budget, now: datetime) -> list[tuple[bytes, bytes]]:
    full = now + timedelta(seconds=math.ceil(budget.seconds_until(budget.size)))
    stem = f"anthropic-ratelimit-{name}-"
    return [
        (f"{stem}limit".encode(), b"%d" % budget.size),
        (f"{stem}remaining".encode(), b"%d" % budget.remaining),
        (f"{stem}reset".encode(), full.strftime("%Y-%m-%dT%H:%M:%SZ").encode()),
    ]


def _openai(name: str, budget: Budget) -> list[tuple[bytes, bytes]]:
    wait = budget.seconds_until(budget.size)
    return [
        (f"x-ratelimit-limit-{name}".encode(), b"%d" % budget.size),
        (f"x-ratelimit-remaining-{name}".encode(), b"%d" % budget.remaining),
        (f"x-ratelimit-reset-{name}".encode(), f"{wait:.3f}s".encode()),
    ]


def _refused(what: str, limit: int, wait: float) -> ApiError:
    seconds = max(1, math.ceil(wait))
    return ApiError(
        429,
        f"This request would exceed your organization's rate limit of {limit} {what}.",
        code="rate_limit_exceeded",
        headers={"retry-after": str(seconds), "x-should-retry": "true"},
    )
