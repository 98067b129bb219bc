"""Processor time of simulating a million requests: a quiet engine, a full cache, an overload.

python bench/simulate_serving.py [REQUESTS]
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mythos.plan.simulate import Engine, poisson, quantiles, simulate

SLOTS = 256
# rate, mean prompt, mean answer, spread, tokens in the cache
CASES = {
    "quiet": (9.0, 1024, 256, 0.5, 300_000),
    "full cache": (2.6, 1024, 1024, 0.7, 120_000),
    "overload": (40.0, 1024, 200, 0.5, 600_000),
}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for name, (rate, prompt, answer, spread, cache) in CASES.items():
        engine = Engine(tuple(0.008 + 0.00006 * b for b in range(SLOTS + 1)), 2e-8, 4e-5, cache)
        asked = poisson(rate, count, prompt, answer, spread=spread, seed=1)
        began = time.process_time()
        done = simulate(engine, asked)
        spent = time.process_time() - began
        ttft, tpot = (quantiles(values, [0.5])[0] for values in (done.ttft, done.tpot))
        print(
            f"{name:12s} {count:,} requests, {spent:5.1f} s of processor time, {done.steps:,} steps,"
            f" {done.preempted:,} pre-emptions, median TTFT {ttft:.3g} s, TPOT {1e3 * tpot:.3g} ms"
        )


if __name__ == "__main__":
    main()
