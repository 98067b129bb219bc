"""The planner on our own engine: two figures of `mythos bench` calibrate it, a third is foreseen.

    mythos bench --no-peers --only prefill-512 --only decode-1 --only decode-16 --output bench.json
    python bench/plan_own_engine.py bench.json [--json]

The accelerator is the machine as the record gauged it beside each turn (a product in float32, reading of
memory), so a machine that drifts moves both sides. The speed of one stream gives the factor on reading, that
of a prompt the factor on products; the step of sixteen streams is foreseen from these.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mythos.plan.hardware import Hardware
from mythos.plan.serving import TERMS, Deployment, decode_step, step_terms
from mythos.spec.config import ModelConfig
from mythos.spec.load import load_family

# Stored as int8 with 16-bit caches: one byte a weight, as the fp8 recipe counts them.
OURS = Deployment(precision="fp8", kv_bytes=2.0, engine="mythos")
PROMPT, STREAMS = 128, 16  # of the decode cases
READING, PRODUCTS = ("dense", "cache"), ("product", "prompt")
GB = 1e9


def machine(step: dict) -> Hardware:
    return Hardware(
        name="this machine", bf16=step["gflops"] * GB, fp8=None, fp4=None,
        memory_bytes=8 * GB, usable_bytes=8 * GB,
        bandwidth=step["gbps"] * GB, scale_up=1.0, domain=1, scale_out=1.0, tdp_w=None, all_in_kw=None,
        dated="", source="gauged by mythos bench",
    )  # fmt: skip


def turns(record: dict, case: str) -> list[dict]:
    """Our turns of that case, warm-up apart; exits when there are none."""
    found = [
        step
        for step in record["steps"]
        if step["case"] == case
        and step["arm"] == "mythos"
        and step["round"] > 0
        and step["figures"].get(case)
    ]
    if not found:
        sys.exit(f"the record has no turn of {case}: run mythos bench with --only {case}")
    return found


def median_terms(config: ModelConfig, steps: list[dict], *work: float) -> np.ndarray:
    return np.median(
        [step_terms(config, OURS, work[0], work[1], machine(step), *work[2:]) for step in steps], 0
    )


def foreseen(record: dict) -> dict[str, float]:
    config = load_family(record["model"]["family"]).tier(record["model"]["tier"]).config
    tokens = 64 if record["quick"] else 128
    context = PROMPT + tokens / 2
    alone, prompt, many = (turns(record, case) for case in ("decode-1", "prefill-512", "decode-16"))
    measured = {
        "decode-1": 1 / statistics.median(step["figures"]["decode-1"] for step in alone),
        "prefill-512": 512 / statistics.median(step["figures"]["prefill-512"] for step in prompt),
        "decode-16": STREAMS / statistics.median(step["figures"]["decode-16"] for step in many),
    }
    factors = np.ones(len(TERMS))
    at = {name: place for place, name in enumerate(TERMS)}
    waits = [at[name] for name in TERMS if name not in (*READING, *PRODUCTS)]
    factors[waits] = 0.0
    ideal = median_terms(config, prompt, 0, 1, 512, 512)
    share = measured["prefill-512"] / ideal[at["prompt"]]
    factors[[at[name] for name in PRODUCTS]] = share
    ideal = median_terms(config, alone, 1, context)
    left = measured["decode-1"] - share * ideal[at["product"]]
    reading = left / (ideal[at["dense"]] + ideal[at["cache"]])
    factors[[at[name] for name in READING]] = max(reading, 0.0)
    step = statistics.median(
        decode_step(config, OURS, STREAMS, context, machine(turn), factors) for turn in many
    )
    return {
        "measured_ms": 1e3 * measured["decode-16"],
        "foreseen_ms": 1e3 * step,
        "error": step / measured["decode-16"] - 1,
        "factor_on_reading": reading,
        "factor_on_products": share,
        "gflops": statistics.median(turn["gflops"] for turn in many),
        "gbps": statistics.median(turn["gbps"] for turn in many),
        "turns": len(many),
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("record", type=Path)
    asked.add_argument("--json", action="store_true")
    options = asked.parse_args()
    found = foreseen(json.loads(options.record.read_text()))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:20s} {value:.4g}")


if __name__ == "__main__":
    main()
