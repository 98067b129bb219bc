"""What is asked in evaluations, as text: so that none of it is trained on."""

from collections.abc import Iterator
from pathlib import Path

from mythos.data.fetch import Progress
from mythos.data.from_archives import cwe_kept_back
from mythos.data.prompts import refusal_set, talks
from mythos.data.reasoning import EVALUATION, questions
from mythos.evaluate import covert, errands, flaws, humaneval, mmlu_dev, mutants


def evaluation_items(cache: Path, progress: Progress) -> Iterator[tuple[str, str, str]]:
    """(suite, item id, text) of every suite, and of what is kept back for suites to come (`cwe`).

    Held-out refusal prompts are among those of `refusal`. A task's mutants are one item: alone they are the
    solution but for one operator. FetchError when data is neither in the cache nor to be had; DataError when
    reasoning-gym is not installed.
    """
    for task in humaneval.tasks(cache, progress):
        name, solution = task["task_id"], task["canonical_solution"]
        yield "humaneval", name, f"{task['prompt']}{solution}\n{task['test']}"
        changed = mutants.mutations(task["prompt"], solution)
        yield "mutants", name, "\n".join([task["prompt"], *changed])
    for item in mmlu_dev.suite(cache, progress).items:
        options = " ".join(item.data[letter] for letter in mmlu_dev.LETTERS)
        yield "mmlu_dev", item.id, f"{item.data['question']} {options}"
    for kind in flaws.ASK:
        for program in flaws.programs(kind):
            yield f"{kind}_flaws", program.name, program.text(program.sound)
    for item in covert.suite().items:
        yield "misalignment_covert", item.id, item.data["ask"]
    for item in errands.suite().items:
        yield "autonomy_errands", item.id, item.data["ask"]
    for prompt in refusal_set():
        yield "refusal", prompt.id, prompt.text
    for talk in talks():
        for turn, text in enumerate(talk.turns):
            yield "refusal", f"{talk.id}/{turn}", text
    for question in questions(EVALUATION):
        yield "reasoning_gym", f"{question.generator}/{question.seed}", question.text
    for name, text in cwe_kept_back(cache, progress):
        yield "cwe", name, text
