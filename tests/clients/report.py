"""Writes the tables of docs/reference/compatibility.md from what the last `make test-clients` left.

python -m tests.clients.report
"""

import json
import sys
from collections.abc import Iterable

from tests.clients.environments import RESULTS, ROOT
from tests.clients.suites import SUITES, Outcome, Suite, explanations, read_results

DOCUMENT = ROOT / "docs" / "reference" / "compatibility.md"
CLIENTS = RESULTS / "clients.json"


def suite_table(suite: Suite, outcomes: list[Outcome]) -> str:
    """Passed and total by file, then each failing test by its explanation."""
    lines = ["| file | passed | total | with a request: passed | total |", "|---|---|---|---|---|"]
    for name, files in [*((f"`{file}`", (file,)) for file in suite.files), ("all", suite.files)]:
        every = [outcome for outcome in outcomes if outcome.file in files]
        asking = [outcome for outcome in every if outcome.asks]
        cells = [name, *(cell for group in (every, asking) for cell in (passed(group), len(group)))]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines.append("")
    lines += ["| does not pass | why | tests | by name |", "|---|---|---|---|"]
    for explanation in explanations(suite):
        count = sum(explanation.fits(outcome) for outcome in outcomes)
        names = ", ".join(f"`{name}`" for name in explanation.tests)
        lines.append(f"| {explanation.reason} | {explanation.why.strip()} | {count} | {names} |")
    return "\n".join(lines)


def passed(outcomes: list[Outcome]) -> int:
    return sum(outcome.state == "passed" for outcome in outcomes)


def client_table(seen: dict[str, dict[str, str]]) -> str:
    """Features by client: what the tests of this directory found. An empty cell: not asked of that client."""
    clients = sorted(seen)
    lines = ["| | " + " | ".join(clients) + " |", "|---|" + "---|" * len(clients)]
    features = dict.fromkeys(feature for found in seen.values() for feature in found)
    for feature in features:
        cells = (seen[client].get(feature, "") for client in clients)
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def replaced(text: str, name: str, table: str) -> str:
    """`text` with `table` between the comments that mark the place called `name`."""
    opening, closing = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, mark, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not mark or not end:
        sys.exit(f"error: {DOCUMENT.name} has no place for {name}")
    return f"{before}{opening}\n{table}\n{closing}{after}"


def note(results: Iterable[tuple[str, str, str]]) -> None:
    """Write down (client, feature, outcome); the worst outcome of a feature counts. Others' rows are kept."""
    worst = ("passed", "skipped", "failed")
    found: dict[str, dict[str, str]] = {}
    for client, feature, outcome in results:
        before = found.setdefault(client, {}).get(feature, "passed")
        found[client][feature] = max(before, outcome, key=worst.index)
    kept = json.loads(CLIENTS.read_text()) if CLIENTS.exists() else {}
    RESULTS.mkdir(parents=True, exist_ok=True)
    CLIENTS.write_text(json.dumps(kept | {client: kept.get(client, {}) | found[client] for client in found}))


def main() -> None:
    text = DOCUMENT.read_text()
    for suite in SUITES:
        text = replaced(text, suite.name, suite_table(suite, read_results(suite)))
    text = replaced(text, "clients", client_table(json.loads(CLIENTS.read_text())))
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
