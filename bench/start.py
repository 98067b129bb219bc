"""What starting the command costs: processor time of `mythos --help` beside Python that does nothing.

    python bench/start.py [--rounds 8] [--json]

Rounds in turns. To be at most 0.3 s, the best of the rounds, on a machine that nothing else uses.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

BAR = 0.3
ARMS = {"mythos --help": ["-m", "mythos.cli", "--help"], "python alone": ["-c", "pass"]}


def processor_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(options.rounds):
        for name, arguments in ARMS.items():
            times[name].append(processor_seconds(arguments))
    best = min(times["mythos --help"])
    if options.json:
        print(json.dumps({"seconds": times, "bar": BAR, "met": best < BAR}))
        return
    for name, taken in times.items():
        print(f"{name:14} {statistics.median(taken):.3f} s ({min(taken):.3f} to {max(taken):.3f})")
    print(f"the bar of {BAR} s for the best is {'met' if best < BAR else 'missed'}")


if __name__ == "__main__":
    main()
