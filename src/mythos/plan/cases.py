"""Published runs as cases: what a file says of a model, a machine and a layout, in the planner's own terms.

The form is that of files with `cases`, each an object with `id`, `kind`, `metric`, `mode`, `inputs`,
`published` (`value`, `unit`) and `tolerance`. Inputs are read leniently, since every source words them in its
own way; what is not given is None, and what cannot be read is the same.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mythos.plan.errors import PlanError
from mythos.plan.hardware import Hardware, hardware
from mythos.plan.layout import Precision
from mythos.plan.memory import Kernels
from mythos.records.errors import MythosError
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.spec.hf_config import shape_from_hf

MAX_BYTES = 64 << 20


class UnknownModel(MythosError):
    """The case names a model but gives no shape that can be read."""


class NoData(MythosError):
    """The case does not give what its prediction needs."""


@dataclass(frozen=True, slots=True)
class Case:
    id: str
    kind: str
    metric: str  # "" where the kind says it all
    determined: bool  # everything needed is given; else the planner must predict efficiencies
    inputs: Mapping[str, Any]
    value: float | None  # published
    unit: str
    tolerance: Mapping[str, Any]


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases of a file; PlanError when it is not of that form."""
    try:
        with path.open("rb") as source:
            data = source.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise PlanError(f"{path} is larger than {MAX_BYTES} bytes.", "Split the file.")
        table = json.loads(data)
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}).", "Check its path.") from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not JSON: {str(error)[:100]}.", "Correct the file.") from None
    rows = table.get("cases") if isinstance(table, Mapping) else table
    if not isinstance(rows, list) or not rows:
        raise PlanError(f"{path} holds no cases.", "It should be an object with a list `cases`.")
    cases = tuple(_case(row, f"{path}, cases[{place}]") for place, row in enumerate(rows))
    names = [case.id for case in cases]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise PlanError(f"{path} has two cases {twice!r}.", "Give each its own id.")
    return cases


def _case(row: Any, where: str) -> Case:
    if not isinstance(row, Mapping) or not isinstance(row.get("id"), str) or not row["id"]:
        raise PlanError(f"{where} has no id.", "Every case is an object with an id.")
    published = _table(row.get("published"))
    return Case(
        id=row["id"],
        kind=str(row.get("kind") or ""),
        metric=str(row.get("metric") or ""),
        determined=row.get("mode") == "determined",
        inputs=_table(row.get("inputs")),
        value=_number(published.get("value")),
        unit=str(published.get("unit") or ""),
        tolerance=_table(row.get("tolerance")),
    )


# ---- what a case says of its model


def shape(inputs: Mapping[str, Any]) -> ModelConfig:
    """UnknownModel when the case gives none that can be read."""
    found = inputs.get("hf_config") or inputs.get("config") or inputs.get("model")
    if not isinstance(found, Mapping):
        raise UnknownModel("the case gives no shape of its model")
    known = {**found, "model_type": _KNOWN_AS.get(str(found.get("model_type")), found.get("model_type"))}
    try:
        config = shape_from_hf(known)
    except MythosError:
        config = _plain_shape(found, inputs)
    depth = inputs.get("mtp_layers", found.get("mtp_num_layers"))
    if isinstance(depth, int) and depth != config.mtp:
        from dataclasses import replace

        config = replace(config, mtp=depth)
    return config


_KNOWN_AS = {"deepseek_r1": "deepseek_v3", "kimi_k2_5": "kimi_k25", "qwen2_5": "qwen2"}


def is_gpt2_like(inputs: Mapping[str, Any]) -> bool:
    """A GPT as trained until 2022, on an A100 or where no machine is named: attention scores are stored."""
    model, part = _table(inputs.get("model")), _table(inputs.get("hardware")).get("accelerator")
    old = part is None or "A100" in str(part) or "V100" in str(part)
    return str(model.get("model_type", "")).startswith("gpt2") and old


def _plain_shape(model: Mapping[str, Any], inputs: Mapping[str, Any]) -> ModelConfig:
    """From sizes alone, whatever the architecture is called."""
    try:
        width, layers = int(model["hidden_size"]), int(model["num_hidden_layers"])
        heads = int(model["num_attention_heads"])
        activation = str(model.get("act") or model.get("hidden_act") or "silu").lower()
        gated = not any(word in activation for word in ("gelu", "relu", "2 matrices"))
        moe = _plain_experts(model)
        mla = _plain_mla(model)
        ffn = int(model.get("intermediate_size") or (moe.width if moe else 4 * width))
        kv_heads = int(model.get("num_key_value_heads") or heads)
        dim = int(model.get("head_dim") or width // heads)
        dense = set(range(int(model.get("first_k_dense_replace") or 0))) if moe else set()
        learned = re.search(r"learned\D*(\d+)", str(model.get("position_embedding", "")))
        positions = int(learned[1]) if learned else 0
        if not learned and "gpt2" in str(model.get("model_type")):
            positions = int(model.get("seq_len") or inputs.get("seq_len") or 0)
        biased = "bias" in activation or bool(model.get("add_bias_linear"))
        return ModelConfig(
            vocab=_vocabulary(model, inputs),
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=heads if mla else kv_heads,
            head_dim=mla.nope_dim + mla.rope_dim if mla else dim,
            ffn=ffn,
            context=int(inputs.get("seq_len") or model.get("seq_len") or 4096),
            tied=bool(model.get("tie_word_embeddings", "gpt2" in str(model.get("model_type")))),
            moe=moe,
            dense_layers=tuple(sorted(dense)),
            mla=mla,
            gated=gated,
            layer_norm="layernorm" in str(model.get("norm", "")).lower(),
            attention_bias=biased,
            mlp_bias=biased,
            learned_positions=positions,
            mtp=int(model.get("mtp_num_layers") or 0),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UnknownModel(f"the case gives no shape that can be read ({error})") from None


def _plain_experts(model: Mapping[str, Any]) -> MoEConfig | None:
    names = ("num_experts", "n_routed_experts", "num_local_experts")
    routed = next((int(model[name]) for name in names if model.get(name)), 0)
    if routed <= 1:
        return None
    fixed = int(model.get("shared_expert_intermediate_size") or 0)
    return MoEConfig(
        routed=routed,
        top_k=int(model.get("num_experts_per_tok") or model["moe_topk"]),
        width=int(model.get("moe_intermediate_size") or model["intermediate_size"]),
        shared=1 if fixed else int(model.get("n_shared_experts") or 0),
        shared_width=fixed or None,
    )


def _plain_mla(model: Mapping[str, Any]) -> MLAConfig | None:
    if not model.get("kv_lora_rank"):
        return None
    return MLAConfig(
        kv_rank=int(model["kv_lora_rank"]),
        nope_dim=int(model["qk_nope_head_dim"]),
        rope_dim=int(model["qk_rope_head_dim"]),
        value_dim=int(model["v_head_dim"]),
        q_rank=int(model.get("q_lora_rank") or 0),
    )


def _vocabulary(model: Mapping[str, Any], inputs: Mapping[str, Any]) -> int:
    """A number, or words such as "50257 padded to a multiple of 128*tp"."""
    given = model["vocab_size"]
    padding = str(model.get("vocab_padding_multiple") or "")
    if isinstance(given, str):
        found = re.search(r"(\d+) padded to a multiple of (.*)", given)
        if not found:
            raise ValueError(f"vocab_size {given!r:.40}")
        size, padding = int(found[1]), found[2]
    else:
        size = int(given)
    factors = re.findall(r"\d+|tp", padding)
    multiple = 1
    for factor in factors:
        multiple *= int(_table(inputs.get("layout")).get("tp") or 1) if factor == "tp" else int(factor)
    return -(-size // multiple) * multiple


# ---- what a case says of machine and run


def machine(inputs: Mapping[str, Any]) -> tuple[Hardware, int]:
    """The accelerator and how many; NoData when either is missing or not known."""
    given = _table(inputs.get("hardware"))
    name, count = given.get("accelerator") or given.get("name"), given.get("count")
    if isinstance(count, str):
        digits = re.search(r"\d+", count.replace(",", ""))
        count = int(digits[0]) if digits else None
    if not isinstance(name, str) or not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise NoData("the case gives no accelerator and number of them")
    try:
        return hardware(name), count
    except PlanError as error:
        raise NoData(error.message) from None


def precision(inputs: Mapping[str, Any]) -> Precision:
    """Of the matrix products; 16 bits where the case does not say."""
    words = str(inputs.get("precision") or "").lower()
    if "fp4" in words:
        return "fp4"
    return "fp8" if "fp8" in words else "bf16"


def recompute(inputs: Mapping[str, Any]) -> Literal["none", "selective", "full"] | None:
    words = str(inputs.get("recompute") or "").lower()
    if "full" in words:
        return "full"
    if "selective" in words or "core" in words:
        return "selective"
    return "none" if words in ("none", "no", "off") else None


def kernels(inputs: Mapping[str, Any]) -> Kernels:
    """As the case says, else as Megatron-LM has it by default: dropout in a GPT, a loss in 32 bits."""
    flash = inputs.get("flash_attention")
    gpt = str(_table(inputs.get("model")).get("model_type", "")).startswith("gpt")
    return Kernels(
        flash=flash if isinstance(flash, bool) else not is_gpt2_like(inputs),
        dropout=gpt or "dropout" in str(inputs.get("dtype", "")),
        fused_loss="fused" in str(inputs.get("cross_entropy") or ""),
    )


def splits_sequence(inputs: Mapping[str, Any]) -> bool:
    """Sequence parallelism; on where the case does not say, as the recipes of Megatron-LM have it."""
    for table in (inputs, _table(inputs.get("layout"))):
        if isinstance(table.get("sequence_parallel"), bool):
            return table["sequence_parallel"]
    return True


def sharding(inputs: Mapping[str, Any]) -> Literal["none", "optimizer", "full"]:
    words = " ".join(str(inputs.get(key) or "") for key in ("optimizer", "sharding", "precision", "notes"))
    words = words.lower()
    if "fsdp" in words or "zero-3" in words or "zero3" in words:
        return "full"
    if "distributed" in words or "zero-1" in words or "zero1" in words:
        return "optimizer"
    return "none" if "adam, 18" in words or is_gpt2_like(inputs) else "optimizer"


def optimizer(inputs: Mapping[str, Any]) -> Literal["adam", "muon"]:
    """Muon where the case says so of its own model; a note may say it of another."""
    if "muon" in str(inputs.get("optimizer") or "").lower():
        return "muon"
    of_kimi = "kimi" in str(_table(inputs.get("hf_config")).get("model_type", "")).lower()
    return "muon" if of_kimi and "kimi-k2 uses muon" in str(inputs.get("notes") or "").lower() else "adam"


def whole(inputs: Mapping[str, Any], *names: str) -> int | None:
    """The first of the named inputs that is a positive whole number, of the case or its layout."""
    for table in (inputs, _table(inputs.get("layout"))):
        for name in names:
            value = table.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
                return int(value)
    return None


def number(inputs: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        if (value := _number(inputs.get(name))) is not None:
            return value
    return None


def needed(inputs: Mapping[str, Any], *names: str) -> float:
    """NoData when none of the named inputs is a number."""
    value = number(inputs, *names)
    if value is None:
        raise NoData(f"the case gives no {names[0]}")
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    return None


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
