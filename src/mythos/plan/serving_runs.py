"""Measured serving runs from a CSV file of the form of aiconfigurator's `silicon_sample.csv`.

The source was written by several exporters. What they mean, as far as the rows show it by repeating each
other's measurements:

- `batch_size` is per attention group; `silicon_concurrency=` in the source column is the whole load.
- Where experts are dealt out, one exporter writes tp x ep as `tp_size` (tp 64, moe 8 x 8 are 8 accelerators),
  and with attention data parallelism as `attention_dp_size` (64, moe 8 x 8: 8) or as both (tp 4, dp 4, moe
  1 x 16: 4 accelerators in 4 groups).
- Without `attention_dp_size`, groups are what the experts' product has beyond tp.
- `pp_size` stages work on a batch each, so that they are here as many replicas of what one stage would be
  with all layers: a token passes them all.
- Disaggregated rows without `decode_num_workers` do not say how many workers there are, nor how attention
  and experts are split; `decode_tp_size` is then all accelerators of a worker.
- `zhipuai`, `nvidia` and `deepseek-ai` names stand for one shape each (`published.toml`).
"""

import csv
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mythos.plan.errors import PlanError, reason
from mythos.plan.hardware import Hardware, hardware
from mythos.plan.published import known_as, shape
from mythos.plan.serving import Deployment, Precision, bytes_per_accelerator
from mythos.spec.config import ModelConfig

COLUMNS = ("id", "backend", "model_path", "system", "precision", "mode", "isl", "osl")
HELD_OUT = 3  # of ten parts of all configurations, by hash
# Disaggregated rows that do not say how many decode workers there are: in rows that do, few clients have
# several workers each, many have one whose attention is not split.
_WORKERS_OF_ONE, _CLIENTS_OF_ONE_WORKER, _MANY_CLIENTS = 6, 1000, 400
# Recipes by other names; "" is 16 bits.
_PRECISIONS: dict[str, Precision] = {
    "": "bf16", "bf16": "bf16", "bfloat16": "bf16", "fp16": "bf16", "float16": "bf16",
    "fp8": "fp8", "fp8_block": "fp8", "fp4": "fp4", "nvfp4": "fp4", "mxfp4": "fp4",
    "int4": "int4", "int4_wo": "int4", "w4a16": "int4",
}  # fmt: skip
_USABLE = 0.88  # of memory that weights may fill for a layout to be believed


@dataclass(frozen=True, slots=True)
class ServingRun:
    """One row. `config` or `part` is None when the model's shape or the accelerator is not known."""

    id: str
    model: str  # the first name of its shape, or the name as given
    config: ModelConfig | None
    system: str
    part: Hardware | None
    deployment: Deployment
    unknown: str  # precision, where the row's is not known
    guessed: bool  # workers and split are not in the row
    concurrency: float
    prompt: float
    answer: float
    ttft: float | None  # seconds, measured; None: not given
    tpot: float | None

    @property
    def status(self) -> str:
        if self.config is None:
            return "unknown-model"
        if self.part is None:
            return "unknown-hardware"
        return f"unknown-{self.unknown}" if self.unknown else "predicted"

    @property
    def configuration(self) -> str:
        """Model, system, engine, precision and layout, as the held-out part is chosen by.

        Disaggregated rows by accelerators alone: exporters disagree on the rest for one and the same run.
        """
        d = self.deployment
        layout = f"{d.accelerators},{d.dp},{d.ep}" if not d.prefill else f"{d.prefill}>{d.accelerators}"
        if not d.prefill and d.replicas > 1:
            layout += f",{d.replicas} stages"
        return "|".join((self.model, self.system, d.engine, d.precision, layout))

    @property
    def held_out(self) -> bool:
        """Whether nothing may be fitted on it: 30% of configurations."""
        return hashlib.sha256(self.configuration.encode()).digest()[0] * 10 // 256 < HELD_OUT

    @property
    def measurement(self) -> tuple[float | None, float | None]:
        """Equal for rows that repeat one measurement."""
        return self.ttft, self.tpot


def read_serving_runs(path: Path) -> list[ServingRun]:
    """Every row of the file, in its order; PlanError naming the line for what cannot be read."""
    try:
        with path.open(newline="") as source:
            return list(_rows(csv.DictReader(source), path.name))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(
            f"{path} cannot be read ({reason(error)}).", "Give a CSV file with a line of heads."
        ) from None


def _rows(reader: csv.DictReader, where: str) -> Iterator[ServingRun]:
    heads = reader.fieldnames or []
    if missing := [name for name in COLUMNS if name not in heads]:
        raise PlanError(f"{where} lacks the column {missing[0]}.", f"Needed are {', '.join(COLUMNS)}.")
    for row in reader:
        try:
            yield _run({key: value or "" for key, value in row.items() if isinstance(key, str)})
        except (ValueError, PlanError) as error:
            told = error.message if isinstance(error, PlanError) else str(error)
            raise PlanError(
                f"{where}, line {reader.line_num}: {told}", "Correct or remove the line."
            ) from None


def _run(row: Mapping[str, str]) -> ServingRun:
    if row["mode"] not in ("agg", "disagg"):
        raise PlanError(f"mode is {row['mode']!r:.40}, neither agg nor disagg", "Correct it.")
    config, part = shape(row["model_path"]), _part(row["system"])
    found = re.search(r"silicon_concurrency=(\d+)", row.get("silicon_data_source", ""))
    concurrency = float(found.group(1)) if found else 0.0
    named = (row["precision"] or row.get("gemm_quant_mode", "")).lower()
    precision = _PRECISIONS.get(named)
    guessed = row["mode"] == "disagg" and not _count(row, "decode_num_workers")
    given = {
        "precision": precision or "bf16",
        "engine": row["backend"],
        "version": row.get("backend_version", ""),
    }
    if row["mode"] == "agg":
        size, dp, ep = aggregated_layout(row)
        concurrency = concurrency or _count(row, "batch_size") * dp
        stages = max(_count(row, "pp_size"), 1)
        fits = None if stages > 1 else part  # the weights of a stage are not those of a replica here
        deployment = _deployment(config, fits, size, dp, ep, given | {"replicas": stages})
    else:
        deployment, concurrency = _disaggregated(config, part, row, concurrency, given)
    return ServingRun(
        id=row["id"],
        model=known_as(config) if config else row["model_path"],
        config=config,
        system=row["system"],
        part=part,
        deployment=deployment,
        unknown="" if precision else "precision",
        guessed=guessed,
        concurrency=_positive(concurrency, "concurrency or batch_size"),
        prompt=_positive(float(row["isl"]), "isl"),
        answer=_positive(float(row["osl"]), "osl"),
        ttft=_milliseconds(row, "silicon_ttft_ms"),
        tpot=_milliseconds(row, "silicon_tpot_ms"),
    )


def aggregated_layout(row: Mapping[str, str]) -> tuple[int, int, int]:
    """Accelerators of a replica, attention groups, parts of the experts; the docstring of this module says
    how the exporters write them."""
    tp = max(_count(row, "tp_size"), 1)
    across, dealt = max(_count(row, "moe_tp_size"), 1), max(_count(row, "moe_ep_size"), 1)
    if not row.get("attention_dp_size"):
        size = max(tp, across * dealt)
        return size, max(size // tp, 1), dealt
    dp = max(_count(row, "attention_dp_size"), 1)
    if across == dealt > 1 and tp * dp == across * dealt:
        return across, across if dp > 1 else 1, dealt
    if tp == dp > 1 and across * dealt == tp * tp:
        return tp, tp, tp
    return tp * dp, dp, dealt


def _disaggregated(
    config: ModelConfig | None, part: Hardware | None, row: Mapping[str, str], concurrency: float, given: dict
) -> tuple[Deployment, float]:
    tp, dp = max(_count(row, "decode_tp_size"), 1), max(_count(row, "decode_attention_dp_size"), 1)
    size, ep, workers = tp * dp, max(_count(row, "decode_moe_ep_size"), 1), _count(row, "decode_num_workers")
    concurrency = concurrency or _count(row, "decode_batch_size") * max(workers, 1) * dp
    if not workers:
        fewer = math.log(max(concurrency, 1)) / math.log(_CLIENTS_OF_ONE_WORKER)
        workers = max(round(_WORKERS_OF_ONE * (1 - fewer)), 1)
        if config is not None and config.moe is not None and concurrency >= _MANY_CLIENTS:
            dp = ep = size
    prefill = max(_count(row, "prefill_tp_size"), 1) * max(_count(row, "prefill_attention_dp_size"), 1)
    extra = {"prefill": prefill, "prefill_workers": max(_count(row, "prefill_num_workers"), 1)}
    found = _deployment(config, part, size, dp, ep, given | extra | {"replicas": workers})
    return found, concurrency


def _deployment(
    config: ModelConfig | None,
    part: Hardware | None,
    size: int,
    dp: int,
    ep: int,
    given: dict,
) -> Deployment:
    """With as many accelerators as the weights need at least, where the row has fewer: no such run can be."""
    dp = dp if size % dp == 0 else 1
    ep = ep if size % ep == 0 else 1
    found = Deployment(tp=size // dp, dp=dp, ep=ep, **given)
    while config is not None and part is not None and found.accelerators < 1024:
        if bytes_per_accelerator(config, found) < _USABLE * part.usable_bytes:
            break
        size *= 2
        groups = size if dp > 1 else 1
        found = Deployment(tp=size // groups, dp=groups, ep=ep, **given)
    return found


def _part(system: str) -> Hardware | None:
    try:
        return hardware(system)
    except PlanError:
        return None


def _count(row: Mapping[str, str], column: str) -> int:
    text = row.get(column, "")
    value = float(text) if text else 0.0
    if not 0 <= value < 1e7 or value != int(value):
        raise ValueError(f"{column} is {text:.40}, no whole number")
    return int(value)


def _milliseconds(row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column, "")
    return _positive(float(text), column) / 1e3 if text else None


def _positive(value: float, name: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}, not above 0")
    return value
