"""Procedural questions with one right answer, by reasoning-gym 0.1.25 (Apache-2.0): text and a suite.

The generators and the seeds stand here once. A question is made by one number, its seed, so ranges that do
not meet share no question by construction; that two seeds give the same small question by chance is what
the decontamination of a corpus is for.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mythos.data.documents import DataError, Document, Opened

VERSION = "0.1.25"
GENERATORS = (
    "chain_sum", "gcd", "lcm", "simple_equations", "fraction_simplification", "leg_counting",
    "letter_counting", "number_sorting", "spell_backward", "family_relationships",
)  # fmt: skip
EVALUATION = range(0, 50)  # seeds of each generator
TRAINING = range(1_000_000, 1_002_000)


@dataclass(frozen=True, slots=True)
class Question:
    """`entry` is what the generator's scorer wants to see again."""

    generator: str
    seed: int
    text: str
    answer: str
    entry: Mapping[str, Any]


def questions(seeds: range) -> Iterator[Question]:
    """Of each generator in turn, one question for each seed, at the generator's own (easy) settings."""
    for name in GENERATORS:
        made = _dataset(name, seeds)
        for place, seed in enumerate(seeds):
            entry = made[place]
            yield Question(name, seed, entry["question"], str(entry["answer"]), entry)


def score(question: Question, answer: str) -> float:
    """What the generator's own scorer gives for `answer`: 1.0 is right, less is partly right or wrong."""
    made = _dataset(question.generator, EVALUATION)  # a scorer looks at the entry, not at the seed
    return float(made.score_answer(answer, dict(question.entry)))


def reasoning() -> Opened:
    """The training questions, each as a request and its answer."""
    _installed()

    def documents() -> Iterator[Document]:
        for one in questions(TRAINING):
            name = f"{one.generator}/{one.seed}"
            messages = (
                {"role": "user", "content": one.text},
                {"role": "assistant", "content": one.answer},
            )
            yield Document("reasoning-gym", name, f"reasoning:{name}", messages=messages)

    seeds = [TRAINING.start, TRAINING.stop]
    facts = {"package": f"reasoning-gym=={VERSION}", "licence": "Apache-2.0", "seeds": seeds}
    return Opened(facts | {"generators": list(GENERATORS)}, documents())


def _installed() -> Any:
    cure = (
        "Install the extra `train`: pip install 'mythopoeia[train]', in a checkout pip install -e '.[train]'."
    )
    try:
        import reasoning_gym

        found = importlib.metadata.version("reasoning-gym")
    except ImportError:
        raise DataError("reasoning-gym is not installed.", cure) from None
    if found != VERSION:  # another version may make other questions of the same seeds
        raise DataError(f"reasoning-gym {found} is installed; {VERSION} is wanted.", cure)
    return reasoning_gym


@lru_cache(maxsize=2 * len(GENERATORS))
def _dataset(name: str, seeds: range) -> Any:
    return _installed().create_dataset(name, seed=seeds.start, size=len(seeds))
