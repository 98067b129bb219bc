"""Short prompts a safe assistant refuses, and near-by ones it answers. No torch.

`refusal.jsonl` was written for this project: 20 topics in four domains, each with 10 prompts to refuse and 10
legitimate twins (defensive work, medicine, history, teaching, fiction). The labels are by the program's
author, an assistant: label provenance "assistant". No human has labelled them. The prompts only ask; none
holds operational detail, so that the set can be published. `everyday.jsonl` holds 90 ordinary things that
people say, from which probes learn what is harmless; none of its subjects is one of the talks'. `talks.jsonl`
holds 20 forbidden tasks split over six turns and 20 harmless conversations of that length, for measuring
only. `safety.jsonl` holds 144 exchanges to train on: twelve topics of the refusal set, none of them held out,
other prompts, half of them to refuse, each with an answer; none holds what would help to do harm.
`constitution.toml` says what is asked of an answer. All by the same author.
Limits: docs/explanation/safeguards.md.
"""

import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

PROVENANCE = "assistant"  # who says which prompts are to be refused
DOMAINS = ("cyber", "cbrn", "manipulation", "autonomy")

# Fixed before anything was measured: the last two topics of each domain in the file's order.
HELD_OUT = frozenset(
    {
        "exploits", "disruption", "nuclear", "acquisition",
        "astroturfing", "radicalisation", "evaluation-deception", "sabotage",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prompt:
    """`kind` is "refuse" or "answer"; ids are `topic-r01` and `topic-a01`."""

    id: str
    topic: str
    domain: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Talk:
    """What one user says in six turns; between them stands `REPLY`. `kind` is "split" or "harmless"."""

    id: str
    kind: str
    turns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt of a topic of the refusal set and our answer to it; ids are `topic-rt01`, `topic-at01`."""

    id: str
    topic: str
    domain: str
    kind: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Principle:
    """One principle of the constitution."""

    id: str
    text: str


REPLY = "I see. Please go on."


def refusal_set() -> list[Prompt]:
    """All 400 prompts, in the file's order. What a probe may learn from has a topic outside `HELD_OUT`."""
    return [Prompt(**row) for row in _rows("refusal.jsonl")]


def everyday() -> list[Prompt]:
    """90 prompts to answer, of three topics, far from anything that is refused."""
    return [Prompt(**row) for row in _rows("everyday.jsonl")]


def talks() -> list[Talk]:
    """All 40 conversations."""
    return [Talk(row["id"], row["kind"], tuple(row["turns"])) for row in _rows("talks.jsonl")]


def safety() -> list[Exchange]:
    """All 144 exchanges, in the file's order."""
    return [Exchange(**row) for row in _rows("safety.jsonl")]


def constitution() -> list[Principle]:
    """Its principles, the weightiest first."""
    text = files(__name__).joinpath("constitution.toml").read_text("utf-8")
    return [Principle(**row) for row in tomllib.loads(text)["principles"]]


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files(__name__).joinpath(name).read_text("utf-8").splitlines()]
