"""MMLU dev: the worked examples of 57 subjects, as multiple choice by likelihood. It is not MMLU."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mythos.data.fetch import PackageFile, Progress, fetch_package_file
from mythos.evaluate.suite import Access, Item, Result, Suite, make_suite, sample
from mythos.records.evidence import Outcome

PACKAGE = PackageFile(
    requirement="lm-eval==0.4.13",
    file="lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json",
    file_bytes=218396,
    file_sha256="081478485b1d4f51e01305e19113f0e3a468f2dc787596386998e229a97b096c",
    wheel_bytes=9149387,
    wheel_sha256="5daaa1973bf874005f64f28d3834b875f6886f0d6475878e6a6c821994a5286a",
)
LETTERS = "ABCD"
CLOZE = "Question: {}\nAnswer:"
LETTER = "Question: {}\n{}\nAnswer:"

_QUESTION = re.compile(
    r"^Q: (?P<question>.*?)\s*\(A\) (?P<A>.*?) \(B\) (?P<B>.*?) \(C\) (?P<C>.*?) \(D\) (?P<D>[^\n]*)\n"
    r"A: .*?[Tt]he (?:correct )?answer is \((?P<answer>[ABCD])\)",
    re.DOTALL,
)


def questions(text: str) -> list[dict[str, str]]:
    """The questions of one subject with four options and a stated answer; others are left out."""
    parts = re.split(r"\n\n(?=Q: )", text)
    return [found.groupdict() for part in parts if (found := _QUESTION.match(part))]


def suite(cache: Path, progress: Progress) -> Suite:
    subjects = json.loads(fetch_package_file(PACKAGE, cache, progress).read_bytes())
    items = [
        Item(f"{subject}/{number}", subject, question)
        for subject, text in sorted(subjects.items())
        for number, question in enumerate(questions(text))
    ]
    settings = {"cloze": CLOZE, "letter": LETTER}
    return make_suite("mmlu_dev", "1", items, settings, ("mmlu_dev.py",), ("cloze", "letter"), 130, run)


def run(access: Access, elicitation: str, items: Sequence[Item]) -> Iterator[Result]:
    """`cloze`: the text of the likeliest option, per byte; `letter`: the likeliest letter, options shown."""
    for item in items:
        options = [item.data[letter] for letter in LETTERS]
        if elicitation == "cloze":
            prefix = CLOZE.format(item.data["question"])
            texts = [f" {option}" for option in options]
            weights = [len(text.encode()) for text in texts]
        else:
            shown = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
            prefix = LETTER.format(item.data["question"], shown)
            texts, weights = [f" {letter}" for letter in LETTERS], [1] * 4
        scores = access.score(access.plain(prefix), [access.plain(text) for text in texts])
        if scores is None:
            yield sample(item, elicitation, Outcome.ERROR, why="does not fit into the context")
            continue
        means = [score / weight for score, weight in zip(scores, weights, strict=True)]
        right = LETTERS[max(range(4), key=means.__getitem__)] == item.data["answer"]
        yield sample(item, elicitation, Outcome.SUCCESS if right else Outcome.FAILURE, scores=scores)
