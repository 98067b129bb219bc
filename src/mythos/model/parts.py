"""What each of N ranks holds of a served model: heads, whole experts, rows of the vocabulary, and of every
other large matrix the rows that make some of its outputs.

No matrix is split by its inputs: a sum over ranks would be added up in another order than in one process and
have other last bits. Here an output is computed by one rank, with the kernel and the order of one process.
Norms, routers, and what latent attention makes before its heads are on every rank.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mythos.model.quant import assign, served_shapes
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import Cut
from mythos.records.errors import MythosError
from mythos.spec.config import ModelConfig

SPLIT = ("q_proj", "k_proj", "v_proj", "q_b_proj", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
         "embed", "lm_head")  # fmt: skip
MOST_RANKS = 64


class CannotSplit(MythosError):
    """A model cannot be served by so many ranks."""


def check_ranks(config: ModelConfig, ranks: int) -> None:
    """CannotSplit, naming what `ranks` does not divide and the numbers that would do."""
    if why := _why_not(config, ranks):
        fits = [str(n) for n in range(1, MOST_RANKS + 1) if _why_not(config, n) is None]
        raise CannotSplit(f"--ranks is {ranks}, {why}.", f"Change it to one of {', '.join(fits)}.")


def _why_not(config: ModelConfig, ranks: int) -> str | None:
    whole = {"heads": config.heads}
    rows = {"width": config.width, "vocabulary": config.vocab}
    if config.mla is None:
        whole["key-value heads"] = config.kv_heads
    if config.moe is not None:
        whole["experts"] = config.moe.routed
        if config.moe.shared:
            rows["shared experts' width"] = config.moe.shared * config.moe.width
    if config.moe is None or config.dense_layers:
        rows["inner width"] = config.ffn
    if not 1 <= ranks <= MOST_RANKS:
        return f"and from 1 to {MOST_RANKS} are served"
    for what, count in whole.items():
        if count % ranks:
            return f"which does not divide the {count} {what}"
    for what, count in rows.items():
        if share(count, ranks) * (ranks - 1) >= count:
            return f"and of {count} rows (its {what}) none are left for a rank"
    return None


def share(count: int, ranks: int) -> int:
    """Rows of each rank but the last, which may have fewer."""
    return -(-count // ranks)


def part_config(config: ModelConfig, ranks: int) -> ModelConfig:
    """The configuration whose cache a rank keeps: the heads are its own, a latent is on every rank."""
    if config.mla is not None:
        return config
    return replace(config, heads=config.heads // ranks, kv_heads=config.kv_heads // ranks)


def cuts(config: ModelConfig, rank: int, ranks: int) -> Mapping[str, Cut | None]:
    """What `rank` reads of each served tensor; None: all of it. Prediction modules are left out.

    CannotSplit as `check_ranks`.
    """
    check_ranks(config, ranks)
    found: dict[str, Cut | None] = {}
    for name, tensor in served_shapes(replace(config, mtp=0)).items():
        module = name.split(".")[-2]
        if module in SPLIT or module == "experts":
            rows = share(tensor.shape[0], ranks)
            found[name] = Cut(rank * rows, min(tensor.shape[0], (rank + 1) * rows))
        else:
            found[name] = None
    return found


def load_part(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """A Transformer over the tensors of one rank, which computes once the ranks exchange what they make
    (`mythos.engine.split`). Its configuration is that of the whole.
    """
    with torch.device("meta"):
        model = Transformer(replace(config, mtp=0))
    return assign(model, tensors)
