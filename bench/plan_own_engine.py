"""The planner on our own engine: factors fitted to some figures of `mythos bench`, other figures foreseen.

    python bench/plan_own_engine.py                     # measures first; on an idle machine
    python bench/plan_own_engine.py --quick --noisy     # other options are those of mythos bench
    python bench/plan_own_engine.py --record bench.json [--factors own.json] [--json]

The factors of `mythos.plan.factors` are fitted to one stream, sixteen streams and a prompt of 512, as those
of published engines are: what a step reads, what each row adds to it, and the prompt's products, each turn on
the machine as it was gauged beside it (a product in float32, reading of memory). Foreseen are four streams
and, where the record has it, a prompt of 2,048, which the fit has not seen. `--factors` keeps the fit with
its provenance, in the form of `serving_factors.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mythos.plan.factors import FORMAT, Case, Factors, Law, as_table
from mythos.plan.hardware import Hardware
from mythos.plan.serving import TERMS, Deployment, step_terms
from mythos.plan.serving_fit import Plan, fit_law, predicted
from mythos.plan.serving_predict import TTFT_TERMS, ttft_terms
from mythos.spec.config import ModelConfig
from mythos.spec.load import load_family

# Stored as int8 with 16-bit caches: one byte a weight, as the fp8 recipe counts them.
OURS = Deployment(precision="fp8", kv_bytes=2.0, engine="mythos")
FITTED, FORESEEN = ("decode-1", "decode-16", "prefill-512"), ("decode-4", "prefill-2048")
PROMPT = 128  # tokens before the answers of the decode cases
WEIGHT = 10.0  # of a turn: what holds factors near 1 is for those that these figures do not tell apart
# One factor for what is read, one for a row, one for a prompt; each term's own beside them.
PLANS = (Plan("engine", (0, 0, 0, 1, 1, 1, 2, 3, 4, 3), 0.01),)
EDGES = (0.1, 0.9)
GB = 1e9


def machine(step: dict) -> Hardware:
    """The accelerator: this machine, as fast as it was beside that turn."""
    return Hardware(
        name="this machine", bf16=step["gflops"] * GB, fp8=None, fp4=None,
        memory_bytes=8 * GB, usable_bytes=8 * GB,
        bandwidth=step["gbps"] * GB, scale_up=1.0, domain=1, scale_out=1.0, tdp_w=None, all_in_kw=None,
        dated="", source="gauged by mythos bench",
    )  # fmt: skip


def turns(record: dict, case: str) -> list[dict]:
    """Our turns of that case, warm-up apart."""
    return [
        step
        for step in record["steps"]
        if step["case"] == case
        and step["arm"] == "mythos"
        and step["round"] > 0
        and step["figures"].get(case)
    ]


def work(case: str) -> tuple[str, int]:
    kind, size = case.split("-")
    return kind, int(size)


def seconds(case: str, step: dict) -> float:
    """Of one step of decoding, or of the prompt."""
    return work(case)[1] / step["figures"][case]


def ideal(config: ModelConfig, case: str, step: dict, tokens: int) -> np.ndarray:
    """Its ideal times (K of TERMS)."""
    kind, size = work(case)
    if kind == "prefill":
        return step_terms(config, OURS, 0, 1, machine(step), size, size)
    return step_terms(config, OURS, size, PROMPT + tokens / 2, machine(step))


def fit(record: dict, config: ModelConfig, tokens: int, made_by: str) -> Factors:
    """Factors of our engine on this machine; exits when a figure is missing."""
    rows = [(case, step) for case in FITTED for step in turns(record, case)]
    if missing := [case for case in (*FITTED, FORESEEN[0]) if not turns(record, case)]:
        sys.exit(f"the record has no turn of {missing[0]}: run mythos bench with --only {missing[0]}")
    here = Case(engine=OURS.engine, part="this machine", precision=OURS.precision, kind="aggregated")
    measured = np.array([seconds(case, step) for case, step in rows])
    terms = np.array([ideal(config, case, step, tokens) for case, step in rows])
    tpot = fit_law(TERMS, terms, measured, [here] * len(rows), np.full(len(rows), WEIGHT), PLANS)
    prompts = [(case, step) for case, step in rows if work(case)[0] == "prefill"]
    waits = np.array(
        [ttft_terms(config, OURS, 1, work(case)[1], tokens, machine(step)) for case, step in prompts]
    )
    first = np.array([seconds(case, step) for case, step in prompts])
    ttft = fit_law(TTFT_TERMS, waits, first, [here] * len(prompts), np.full(len(prompts), WEIGHT), ())
    return Factors(
        format=FORMAT,
        dated=record["finished"][:10],
        provenance=f"{OURS.engine}, {record['model']['tier']}, {len(rows)} turns of {', '.join(FITTED)} on"
        f" {record['machine']['processor']}, {record['threads']} threads",
        command=made_by,
        tpot=tpot,
        ttft=ttft,
    )


def foresee(record: dict, config: ModelConfig, tokens: int, tpot: Law) -> list[dict]:
    """Each case beside what the factors say of it, as medians over its turns."""
    found = []
    for case in (*FITTED, *FORESEEN):
        steps = turns(record, case)
        if not steps:
            continue
        here = Case(engine=OURS.engine)
        told = predicted(tpot, np.array([ideal(config, case, s, tokens) for s in steps]), [here] * len(steps))
        measured = np.array([seconds(case, step) for step in steps])
        low, high = np.quantile(told / measured, EDGES)
        found.append(
            {
                "case": case,
                "half": "fitted" if case in FITTED else "held out",
                "turns": len(steps),
                "measured_ms": 1e3 * float(np.median(measured)),
                "foreseen_ms": 1e3 * float(np.median(told)),
                "error": float(np.median(told / measured)) - 1,
                "of_turns": [float(low) - 1, float(high) - 1],
            }
        )
    return found


def measured_record(more: list[str]) -> dict:
    """`mythos bench` of these cases, ours alone, with further options of its own; exits as it does when it
    refuses a busy machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.json"
        command = [sys.executable, "-m", "mythos.cli", "bench", "--no-peers", "--output", str(path)]
        cases = [case for case in (*FITTED, *FORESEEN) if "--quick" not in more or case != "prefill-2048"]
        command += [word for case in cases for word in ("--only", case)]
        done = subprocess.run([*command, *more], env=os.environ | {"PYTHONPATH": sys.path[0]})
        if done.returncode:
            sys.exit(done.returncode)
        return json.loads(path.read_text())


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--record", type=Path, help="what mythos bench --output wrote; else it is run")
    asked.add_argument("--factors", type=Path, help="write the factors there")
    asked.add_argument("--json", action="store_true")
    options, more = asked.parse_known_args()
    if options.record and more:
        asked.error(f"{more[0]} is for mythos bench, which does not run with --record")
    record = json.loads(options.record.read_text()) if options.record else measured_record(more)
    config = load_family(record["model"]["family"]).tier(record["model"]["tier"]).config
    tokens = 64 if record["quick"] else 128
    found = fit(record, config, tokens, "python bench/plan_own_engine.py")
    if options.factors:
        options.factors.write_text(json.dumps(as_table(found), indent=1) + "\n")
    rows = foresee(record, config, tokens, found.tpot)
    factors = dict(zip(TERMS, found.tpot.factors(Case(engine=OURS.engine)).tolist(), strict=True))
    if options.json:
        print(json.dumps({"cases": rows, "factors": factors, "provenance": found.provenance}))
        return
    print(found.provenance)
    for row in rows:
        low, high = row["of_turns"]
        print(
            f"{row['case']:13s} {row['half']:9s} measured {row['measured_ms']:8.4g} ms, foreseen"
            f" {row['foreseen_ms']:8.4g} ms: {row['error']:+.1%} (turns {low:+.1%} to {high:+.1%})"
        )
    print("factors: " + ", ".join(f"{name} {value:.3g}" for name, value in factors.items()))


if __name__ == "__main__":
    main()
