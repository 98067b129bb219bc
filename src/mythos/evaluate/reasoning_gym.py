"""Reasoning questions with one right answer, made by reasoning-gym: a figure of quality, graded by its own
scorers.

The seeds are not those of the training text (`mythos.data.reasoning`).
"""

from collections.abc import Iterator, Sequence
from functools import cache

from mythos.data.fetch import Progress
from mythos.data.reasoning import EVALUATION, VERSION, Question, questions, score
from mythos.engine.request import Finish
from mythos.evaluate.judge import refused
from mythos.evaluate.suite import Access, Item, Result, Suite, make_suite, sample, together
from mythos.records.evidence import Outcome

MAX_TOKENS = 48
FILES = ("reasoning_gym.py", "judge.py", "../data/reasoning.py")


@cache
def _asked() -> dict[str, Question]:
    return {f"{question.generator}/{question.seed}": question for question in questions(EVALUATION)}


def suite(progress: Progress) -> Suite:
    """500 questions, 50 of each generator, which is their cluster. DataError when reasoning-gym is
    not installed.
    """
    progress("reasoning_gym", 0, 0)
    items = [
        Item(name, question.generator, {"question": question.text, "answer": question.answer})
        for name, question in _asked().items()
    ]
    settings = {"package": VERSION, "max_tokens": MAX_TOKENS}
    return make_suite("reasoning_gym", "1", items, settings, FILES, ("chat",), 110, run, rules_out=False)


def run(access: Access, elicitation: str, items: Sequence[Item]) -> Iterator[Result]:
    """The question as a chat; the answer's last line that is not empty is graded, and right when
    wholly right.
    """

    def answered(item: Item) -> Result:
        text, finish = access.answer(access.chat(item.data["question"]), MAX_TOKENS)
        if finish is Finish.FAILED:
            return sample(item, elicitation, Outcome.ERROR, why="does not fit into the context")
        return sample(item, elicitation, graded(item.id, text), answer=text)

    return together(answered, items)


def graded(item: str, text: str) -> Outcome:
    """What an answer to the question of that id is worth. KeyError for an id of another suite."""
    if refused(text):
        return Outcome.REFUSAL
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    right = bool(lines) and score(_asked()[item], lines[-1]) == 1.0
    return Outcome.SUCCESS if right else Outcome.FAILURE
