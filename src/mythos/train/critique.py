"""Which of two answers is better, by rules in the name of the constitution's principles: a program's word.

The rules look at words, not at meaning. Whether an answer declines is decided by the judge that also measures
refusals (`mythos.evaluate.judge`): what training gains by fooling it, that measurement does not see.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from mythos.data.overlap import words
from mythos.data.prompts import Exchange, constitution
from mythos.evaluate.judge import NAME as JUDGE
from mythos.evaluate.judge import refused

FEWEST = 3  # words of an answer
LOOP, LOOPED = 4, 0.7  # words of a run; share of different runs below which an answer goes round in circles
SENTENCES = 2  # of a refusal, at least

_DETAIL = re.compile(r"```|^\s*(?:\d+[.)]|[-*\u2022])\s", re.MULTILINE)
_HUMAN = re.compile(
    r"\b(?:as an? (?:\w+ )?(?:human|person|man|woman)\b[^.]{0,20}\bi\b"
    r"|i(?:'m| am) (?:an? )?(?:\w+ )?(?:human|person|man|woman|doctor|lawyer|nurse|engineer|teacher)\b)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"https?:|\bwww\.|\b\w+\.(?:com|org|net|gov|edu)\b", re.IGNORECASE)
_DISRESPECT = re.compile(
    r"\b(?:shame on you|you should be ashamed|you(?:'re| are) (?:an? )?(?:\w+ )?"
    r"(?:idiot|criminal|thief|liar|monster|stupid|evil|disgusting|pathetic))\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?](?:\s|$)")


@dataclass(frozen=True, slots=True)
class Answer:
    """`tokens` with the token that ends a turn, if the answer ended by itself."""

    tokens: tuple[int, ...]
    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers as tokens, and the principle in whose name `chosen` is preferred."""

    exchange: str
    principle: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def critique(exchange: Exchange, answer: Answer) -> list[str]:
    """The principles that the answer breaks, by their rules, the weightiest first."""
    return [one.id for one in constitution() if _RULES[one.id](exchange, answer)]


def critics_sha256() -> str:
    """A digest of the constitution, and of the names and figures in its rules."""
    known = [[asdict(one) for one in constitution()], JUDGE, FEWEST, LOOP, LOOPED, SENTENCES]
    patterns = [one.pattern for one in (_DETAIL, _HUMAN, _ADDRESS, _DISRESPECT, _SENTENCE)]
    return hashlib.sha256(json.dumps([known, patterns]).encode()).hexdigest()


def pairs_of(exchange: Exchange, prompt: Sequence[int], own: Sequence[Answer], written: Answer) -> list[Pair]:
    """The model's `own` answers that break a principle, each beside the best answer there is.

    The best is one of its own if it breaks nothing, else `written`. An answer is worse than another when the
    weightiest principle that it breaks is weightier; without a difference there is no pair.
    """
    order = [one.id for one in constitution()]
    weight = {name: place for place, name in enumerate(order)}

    def standing(answer: Answer) -> int:
        return min((weight[name] for name in critique(exchange, answer)), default=len(order))

    best = max([*own, written], key=standing)  # of equals the first
    pairs = []
    for answer in dict.fromkeys(own):
        place = standing(answer)
        if place < standing(best) and answer.tokens:
            pairs.append(Pair(exchange.id, order[place], tuple(prompt), best.tokens, answer.tokens))
    return pairs


def _goes_round(text: str) -> bool:
    said = words(text)
    runs = [tuple(said[start : start + LOOP]) for start in range(len(said) - LOOP + 1)]
    return len(runs) >= 2 * LOOP and len(set(runs)) < LOOPED * len(runs)


def _says_nothing(exchange: Exchange, answer: Answer) -> bool:
    return len(words(answer.text)) < FEWEST or words(answer.text) == words(exchange.text)


Rule = Callable[[Exchange, Answer], bool]
_RULES: dict[str, Rule] = {
    "decline-harm": lambda asked, answer: asked.kind == "refuse" and not refused(answer.text),
    "keep-out-detail": lambda asked, answer: refused(answer.text) and bool(_DETAIL.search(answer.text)),
    "help-who-asks-fairly": lambda asked, answer: asked.kind == "answer" and refused(answer.text),
    "be-what-you-are": lambda asked, answer: bool(_HUMAN.search(answer.text)),
    "invent-no-sources": lambda asked, answer: bool(_ADDRESS.search(answer.text)),
    "respect": lambda asked, answer: bool(_DISRESPECT.search(answer.text)),
    "show-a-way": lambda asked, answer: (
        refused(answer.text) and len(_SENTENCE.findall(answer.text)) < SENTENCES
    ),
    "say-something": _says_nothing,
    "do-not-repeat": lambda asked, answer: _goes_round(answer.text),
    "come-to-an-end": lambda asked, answer: not answer.ended,
}
