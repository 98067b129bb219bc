"""What shorter runs of pocket's sonnet foresee of longer ones, beside what those came to.

    python bench/longer_runs.py [--json]

The steps are those of docs/runs, what they won back of what pruning cost is in docs/runs/pocket.md.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mythos.plan.longer import still_won

RUNS = Path(__file__).resolve().parent.parent / "docs" / "runs"
# Share won back of what pruning cost, after all tokens of the run.
SHORT = {
    "10m/sonnet-0": 1.076,
    "10m/sonnet-1": 1.136,
    "10m/sonnet-2": 1.161,
    "10m-faster/sonnet-0": 1.124,
    "10m-faster/sonnet-1": 1.226,
    "10m-faster/sonnet-2": 1.212,
    "1h/sonnet": 1.285,
}
LONG = {"1h/sonnet": 1.285, "1h-amx/sonnet": 1.334}


def steps(name: str) -> list[dict[str, float]]:
    text = (RUNS / f"pocket-sonnet-{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    wanted, rows = parser.parse_args(), []
    for short, now in SHORT.items():
        of = steps(short)
        columns = ([step[key] for step in of] for key in ("tokens", "loss", "rate"))
        longer = {name: steps(name)[-1]["tokens"] / of[-1]["tokens"] for name in LONG if name != short}
        for (name, times), more in zip(
            longer.items(), still_won(*columns, list(longer.values())), strict=True
        ):
            value, low, high = (now * (1 + share) for share in (more.value, more.low, more.high))
            rows.append(
                {"from": short, "of": name, "times": times, "now": now, "foreseen": value, "low": low,
                 "high": high, "outcome": LONG[name]}
            )  # fmt: skip
    if wanted.json:
        print(json.dumps({"forecasts": rows}))
        return
    for row in rows:
        print(
            "{from} ({now:.3f}) of {of}, {times:.2f} times the tokens: foreseen {foreseen:.3f} "
            "[{low:.3f}, {high:.3f}], outcome {outcome:.3f}".format(**row)
        )


if __name__ == "__main__":
    main()
