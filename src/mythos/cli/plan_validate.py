"""`mythos plan validate` and `mythos plan calibrate`."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mythos.cli.output import CommandError, Exit, json_wanted, note, show, table
from mythos.plan.calibrate import calibrate
from mythos.plan.cases import Case, read_cases
from mythos.plan.efficiencies import as_toml, load
from mythos.plan.validate import Checked, Score, scores, validate


def run_validate(path: Path, efficiencies: Path | None) -> int:
    checked = validate(read_cases(path), None if efficiencies is None else load(efficiencies))
    if json_wanted():
        for one in checked:
            row = {"id": one.id, "value": one.value, "low": one.low, "high": one.high}
            print(json.dumps(row), flush=True)
        return 0
    heads = ["id", "half", "prediction", "80% interval", "published", "error", "pass"]
    table(heads, (_row(one) for one in checked))
    table(["measure", "half", "n", "value", "bar", "verdict"], (_line(score) for score in scores(checked)))
    for status in ("no-data", "unknown-model"):
        names = [one for one in checked if one.status == status]
        if names:
            note(f"{status}: {len(names)} of {len(checked)} cases, such as {names[0].id}: {names[0].because}")
    return 0


def _row(one: Checked) -> Sequence[str]:
    half = "exact" if one.determined else "held out" if one.held_out else "fitted"
    published = "" if one.published is None else f"{one.published:.5g}"
    if one.value is None:
        return one.id, half, one.status, "", published, "", ""
    interval = f"{one.low:.4g}..{one.high:.4g}" if one.low != one.high else ""
    error = "" if one.error is None else f"{one.error:+.1%}"
    passed = {True: "yes", False: "no", None: ""}[one.passed]
    return one.id, half, f"{one.value:.5g}", interval, published, error, passed


def _line(score: Score) -> Sequence[str]:
    if score.value is None:
        value = ""
    else:
        value = f"{score.value:.2f}" if score.bar.startswith(">=") else f"{score.value:.1%}"
    verdict = {True: "holds", False: "fails", None: "none: too few cases"}[score.holds]
    return score.name, score.half, str(score.n), value, score.bar, verdict


def run_calibrate(paths: list[Path], out: Path | None) -> int:
    cases = tuple(_all(paths))
    found = calibrate(cases)
    named = " ".join(path.name for path in paths)
    eff = replace(
        found.efficiencies,
        dated=time.strftime("%Y-%m-%d", time.gmtime()),
        provenance=f"mythos plan calibrate {named}: fitted to {len(found.used)} published training runs",
    )
    note(
        f"{len(found.used)} runs; median error {found.before:.1%} before the fit, {found.after:.1%} after,"
        f" {found.unseen:.1%} with each left out of its own. The held-out 30% were not seen."
    )
    if out is None:
        show(as_toml(eff))
        return 0
    try:
        out.write_text(as_toml(eff))
    except OSError as error:
        problem = f"{out} cannot be written ({error.strerror})"
        raise CommandError(problem, "choose another path", Exit.FAILED) from None
    note(f"written: {out}. Use it with `mythos plan validate --efficiencies {out}`.")
    return 0


def _all(paths: list[Path]) -> Iterator[Case]:
    seen: set[str] = set()
    for path in paths:
        for case in read_cases(path):
            if case.id in seen:
                raise CommandError(f"two files have a case {case.id}", "give each its own id", Exit.USAGE)
            seen.add(case.id)
            yield case
