"""The machine under `mythos bench`: what it is, how fast it is at this moment, and who else is using it."""

import os
import platform
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mythos.cli.bench_protocol import process_cpu_seconds, serve

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
PACKAGES = ("mythopoeia", "torch", "numpy")


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, its instruction sets that matter here, caches, memory, system, versions."""
    fields, has = _processor(), instructions()
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "instructions": {flag: flag in has for flag in FLAGS} if has else {},
        "cores": cores(),
        "level3_cache": _cache(3),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "virtual": "hypervisor" in has,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def instructions() -> set[str]:
    """Names of the processor's instruction sets, as Linux calls them; none where it does not say."""
    fields = _processor()
    return set(fields.get("flags", fields.get("Features", "")).split())


def _processor() -> dict[str, str]:
    """The first processor's fields in /proc/cpuinfo (proc(5))."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return fields


def _cache(level: int) -> str | None:
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (index / "level").read_text().strip() == str(level):
                return (index / "size").read_text().strip()
        except OSError:
            continue
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Sample:
    """Processor seconds up to a moment: of the whole machine, stolen by its host, of our processes."""

    at: float
    busy: float
    stolen: float
    ours: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Use:
    """What happened between two samples.

    As shares of the whole machine: `foreign` by processes that are not ours, `stolen` by the host of a
    virtual machine. As a share of one processor: `resting` by our own workers that were asked for nothing.
    """

    foreign: float
    stolen: float
    resting: float


def sample(pids: Iterable[int]) -> Sample | None:
    """Now, with the workers `pids` and this process as ours. None where /proc/stat (proc(5)) does not say."""
    try:
        numbers = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(n) / os.sysconf("SC_CLK_TCK") for n in numbers[:8])
    ours = {pid: process_cpu_seconds(pid) for pid in {*pids, os.getpid()}}
    return Sample(time.monotonic(), user + nice + system + irq + softirq, steal, ours)


def use_between(before: Sample | None, after: Sample | None, working: Iterable[int]) -> Use | None:
    """What happened besides the work of `working`, processes of ours that were asked for something."""
    if before is None or after is None or after.at <= before.at:
        return None
    seconds = after.at - before.at
    used = {pid: after.ours[pid] - before.ours[pid] for pid in after.ours.keys() & before.ours.keys()}
    processors = os.cpu_count() or 1
    foreign = max(0.0, after.busy - before.busy - sum(used.values()))
    resting = sum(seconds for pid, seconds in used.items() if pid not in {*working, os.getpid()})
    return Use(
        foreign=foreign / seconds / processors,
        stolen=(after.stolen - before.stolen) / seconds / processors,
        resting=resting / seconds,
    )


def calibrate() -> dict[str, float]:
    """How fast the machine is right now: a matrix product (GFLOP/s), and reading memory (GB/s).

    The product is 1024 x 1024 x 1024 in float32. Memory is read by as many threads as each engine has, each
    looking for the greatest number in its part. Both are done three times; the best counts, and takes some
    ten milliseconds.
    """
    small, parts, pool = _operands()
    product = min(_seconds(lambda: small @ small) for _ in range(3))
    read = min(_seconds(lambda: list(pool.map(_greatest, parts))) for _ in range(3))
    return {"gflops": 2 * 1024**3 / product / 1e9, "gbps": sum(part.nbytes for part in parts) / read / 1e9}


def _greatest(part: Any) -> Any:
    return part.max()  # of the reductions tried, none read faster


@cache
def _operands() -> tuple[Any, list[Any], ThreadPoolExecutor]:
    import numpy as np

    threads = int(os.environ.get("OMP_NUM_THREADS", cores()))  # what the product has
    small = np.random.default_rng(0).random((1024, 1024), np.float32)
    large = np.ones(read_bytes(_cache(3)) // 4, np.float32)
    return small, np.array_split(large, threads), ThreadPoolExecutor(threads)


def read_bytes(level3: str | None) -> int:
    """How much is read: eight times the level-3 cache ("32768K"), but 256 MB at least and 1 GB at most."""
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    cache = int(level3[:-1]) * unit[level3[-1]] if level3 and level3[-1] in unit else 0
    return min(max(8 * cache, 256 << 20), 1 << 30)


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    serve(load=lambda _: calibrate(), run=lambda _: calibrate())
