"""Accelerators: their published rates, sizes, power and prices, from the dated table `hardware.toml`."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mythos.plan.errors import PlanError
from mythos.records.table import from_table

# Words of a product's name that tell no two rows of the table apart.
_PACKAGING = {"nvidia", "amd", "google", "aws", "sxm", "sxm4", "sxm5", "sxm6", "dgx", "hgx", "nvl72", "gpu"}
_PACKAGING |= {"80gb", "141gb", "180gb", "192gb", "288gb", "superpod"}
_UNKNOWN_DRIVER_SHARE = 0.97  # of nominal memory, the share a driver shows where its figure is not known


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator, in FLOP/s, bytes, bytes per second and watts. None: not published or absent.

    `scale_up` and `scale_out` are per accelerator and direction: within a domain of `domain` of
    them, and beyond it. `usable_bytes` is what a driver shows, before the runtime takes its part.
    """

    name: str
    bf16: float
    fp8: float | None
    fp4: float | None
    memory_bytes: float
    usable_bytes: float
    bandwidth: float
    scale_up: float
    domain: int
    scale_out: float
    tdp_w: float | None
    all_in_kw: float | None
    dated: str
    source: str


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table, in the units that vendors print."""

    name: str
    tflops_bf16: float
    memory_gib: float
    terabytes_per_s: float
    scale_up_gigabytes_per_s: float
    domain: int
    scale_out_gigabits_per_s: float
    source: str
    tflops_fp8: float | None = None
    tflops_fp4: float | None = None
    usable_gib: float | None = None
    tdp_w: float | None = None
    all_in_kw: float | None = None


@cache
def parts() -> tuple[Hardware, ...]:
    """Every accelerator of the table, in its order."""
    table = tomllib.loads((files("mythos.plan") / "hardware.toml").read_text())
    rows = [
        from_table(_Row, row, f"hardware.toml, parts[{place}]") for place, row in enumerate(table["parts"])
    ]
    return tuple(_in_si(row, table["dated"]) for row in rows)


def hardware(name: str) -> Hardware:
    """The accelerator called `name`, with or without its packaging ("H100 SXM (DGX)"); else PlanError."""
    wanted = _key(name)
    for part in parts():
        if _key(part.name) == wanted:
            return part
    raise PlanError(
        f"No accelerator is called {name[:80]!r}.", f"Known are {', '.join(part.name for part in parts())}."
    )


def peak(part: Hardware, precision: str) -> float:
    """Dense FLOP/s of matrix products in `precision` (bf16, fp8, fp4); PlanError for a part without them."""
    rates = {"bf16": part.bf16, "fp8": part.fp8, "fp4": part.fp4}
    if precision not in rates:
        raise PlanError(f"No precision is called {precision[:40]!r}.", f"Known are {', '.join(rates)}.")
    rate = rates[precision]
    if rate is None:
        raise PlanError(f"{part.name} has no {precision} matrix units.", "Choose another precision or part.")
    return rate


def _in_si(row: _Row, dated: str) -> Hardware:
    gib, tera = float(1 << 30), 1e12
    return Hardware(
        name=row.name,
        bf16=row.tflops_bf16 * tera,
        fp8=None if row.tflops_fp8 is None else row.tflops_fp8 * tera,
        fp4=None if row.tflops_fp4 is None else row.tflops_fp4 * tera,
        memory_bytes=row.memory_gib * gib,
        usable_bytes=(row.usable_gib or row.memory_gib * _UNKNOWN_DRIVER_SHARE) * gib,
        bandwidth=row.terabytes_per_s * tera,
        scale_up=row.scale_up_gigabytes_per_s * 1e9,
        domain=row.domain,
        scale_out=row.scale_out_gigabits_per_s * 1e9 / 8,
        tdp_w=row.tdp_w,
        all_in_kw=row.all_in_kw,
        dated=dated,
        source=row.source,
    )


def _key(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(word for word in words if word not in _PACKAGING)
