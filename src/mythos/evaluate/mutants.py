"""HumanEval's solutions against small mutations that fail the tests: which does the model find likelier?

A figure of quality with less noise than pass@1 at small sizes. It rules no capability out.
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mythos.data.fetch import Progress
from mythos.evaluate.humaneval import PACKAGE, tasks
from mythos.evaluate.sandbox import run_tests
from mythos.evaluate.suite import Access, Item, Result, Suite, harness_digest, make_suite, sample
from mythos.records.evidence import Outcome
from mythos.store.home import write_private

PER_TASK = 3
TRIED = 12  # mutations of a task run in the sandbox at most
FILES = ("mutants.py", "humaneval.py", "sandbox.py", "sandbox_child.py")
SWAP = {
    "Lt": "LtE", "LtE": "Lt", "Gt": "GtE", "GtE": "Gt", "Eq": "NotEq", "NotEq": "Eq", "In": "NotIn",
    "NotIn": "In", "Add": "Sub", "Sub": "Add", "Mult": "Add", "FloorDiv": "Mult", "Mod": "FloorDiv",
    "And": "Or", "Or": "And",
}  # fmt: skip


def mutations(prompt: str, solution: str) -> list[str]:
    """Bodies that differ from `solution` in one operator or small integer, in the order of the source."""
    source = prompt + solution
    lines = source.splitlines(keepends=True)
    first = prompt.count("\n") + 1
    found = []
    for node in ast.walk(ast.parse(source)):
        if getattr(node, "lineno", 0) < first:
            continue
        operators = getattr(node, "ops", None) or [getattr(node, "op", None)]
        replaced: ast.AST | None = None
        name = type(operators[0]).__name__
        if isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= 10:
            replaced = ast.Constant(node.value + 1)
        elif isinstance(node, ast.Compare) and name in SWAP and len(node.ops) == 1:
            replaced = ast.Compare(node.left, [getattr(ast, SWAP[name])()], node.comparators)
        elif isinstance(node, ast.BinOp | ast.BoolOp) and name in SWAP:
            replaced = ast.parse(ast.unparse(node), mode="eval").body
            replaced.op = getattr(ast, SWAP[name])()  # type: ignore[attr-defined]
        if replaced is None or node.lineno != node.end_lineno:  # type: ignore[attr-defined]
            continue
        line = lines[node.lineno - 1].encode()  # type: ignore[attr-defined]
        text = ast.unparse(replaced)
        if not isinstance(node, ast.Constant):
            text = f"({text})" if line[node.end_col_offset :].strip() not in (b"", b":") else text  # type: ignore[attr-defined]
        changed = line[: node.col_offset] + text.encode() + line[node.end_col_offset :]  # type: ignore[attr-defined]
        body = "".join([*lines[first - 1 : node.lineno - 1], changed.decode(), *lines[node.lineno :]])  # type: ignore[attr-defined]
        found.append((node.lineno, node.col_offset, body))  # type: ignore[attr-defined]
    return list(dict.fromkeys(body for _, _, body in sorted(found) if body != solution))


def _failing(task: dict[str, str]) -> list[str]:
    prompt, kept = task["prompt"], []
    for body in mutations(prompt, task["canonical_solution"])[:TRIED]:
        verdict = run_tests(prompt + body, prompt, task["test"], task["entry_point"], cpu_seconds=2)
        if verdict.outcome is Outcome.FAILURE:
            kept.append(body)
        if len(kept) == PER_TASK:
            break
    return kept


def suite(cache: Path, progress: Progress) -> Suite:
    """Which mutations fail is found once in the sandbox and kept in `cache`, keyed by data and code."""
    all_tasks = tasks(cache, progress)
    key = hashlib.sha256((PACKAGE.file_sha256 + harness_digest(FILES)).encode()).hexdigest()[:16]
    file = cache / f"mutants-{key}.json"
    if not file.exists():
        kept = []
        with ThreadPoolExecutor(2) as pool:
            for bodies in pool.map(_failing, all_tasks):
                kept.append(bodies)
                progress("find mutants", len(kept), len(all_tasks))
        write_private(file, json.dumps(kept).encode(), replace=True)
    items = [
        Item(
            f"{task['task_id']}/{number}",
            task["task_id"],
            {
                "prompt": task["prompt"],
                "bodies": [task["canonical_solution"], *bodies],
                "number": number + 1,
            },
        )
        for task, bodies in zip(all_tasks, json.loads(file.read_bytes()), strict=True)
        for number in range(len(bodies))
    ]
    return make_suite(
        "mutants", "1", items, {"per_task": PER_TASK}, FILES, ("rank",), 170, run, rules_out=False
    )


def run(access: Access, elicitation: str, items: Sequence[Item]) -> Iterator[Result]:
    """A task's solution and mutations are one pass, whichever of its items are to be run."""
    task, scores = "", None
    for item in items:
        if item.cluster != task:
            task, bodies = item.cluster, [access.plain(body) for body in item.data["bodies"]]
            scores = access.score(access.plain(item.data["prompt"]), bodies)
        if scores is None:
            yield sample(item, elicitation, Outcome.ERROR, why="does not fit into the context")
            continue
        pair = [scores[0], scores[item.data["number"]]]
        outcome = Outcome.SUCCESS if pair[0] > pair[1] else Outcome.FAILURE
        yield sample(item, elicitation, outcome, scores=pair)
