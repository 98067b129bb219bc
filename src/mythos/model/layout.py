"""Names of tensors in published checkpoints and here, both ways.

They differ in the embedding, in one projection of latent attention, in experts (stored one by one, here
stacked) and in prediction modules, which are stored as layers behind the last with copies of embedding and
head.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from mythos.model.transformer import Transformer


class Place(NamedTuple):
    """Where a stored tensor belongs: a tensor of ours, or one expert's rows of a stacked one."""

    name: str
    expert: int | None = None
    part: str = ""  # gate | up | down


_EXPERT = re.compile(r"(.+\.mlp\.experts)\.(0|[1-9]\d{0,5})\.(gate|up|down)_proj\.weight")
_LAYER = re.compile(r"layers\.(0|[1-9]\d{0,5})\.(.+)")
_MODULE = ("enorm.weight", "hnorm.weight", "eh_proj.weight")  # of a prediction module, beside its block
_LATENT = "self_attn.kv_a_proj", "self_attn.kv_a_proj_with_mqa"
# What a prediction module's layer has beside a block: stored names and ours. Head and embedding are copies.
_BESIDE = {"shared_head.norm.weight": "norm.weight", "shared_head.head.weight": "lm_head.weight"}
_BESIDE |= {"embed_tokens.weight": "embed.weight"} | {name: name for name in _MODULE}


def place(stored: str, layers: int) -> Place:
    """The place of a stored tensor in a model of `layers` layers.

    Per-expert tensors are the published layout; stacked ones carry our own names behind `model.`.
    """
    name = stored.removeprefix("model.").replace(f"{_LATENT[1]}.", f"{_LATENT[0]}.")
    if name == "embed_tokens.weight":
        return Place("embed.weight")
    if (match := _LAYER.fullmatch(name)) and int(match[1]) >= layers:
        name = f"mtp.{int(match[1]) - layers}.{_BESIDE.get(match[2], f'block.{match[2]}')}"
    if match := _EXPERT.fullmatch(name):
        target = "down_proj" if match[3] == "down" else "gate_up_proj"
        return Place(f"{match[1]}.{target}", int(match[2]), match[3])
    return Place(name)


def copies(model: Transformer) -> dict[str, str]:
    """Tensors that a checkpoint may also hold, by the name that `place` gives them, and what they repeat."""
    head = "embed.weight" if model.lm_head is None else "lm_head.weight"
    found = {"lm_head.weight": "embed.weight"} if model.lm_head is None else {}
    for depth in range(len(model.mtp)):
        found |= {f"mtp.{depth}.embed.weight": "embed.weight", f"mtp.{depth}.lm_head.weight": head}
    return found


def rows(stacked: Tensor, where: Place) -> Tensor:
    """The rows of a stacked expert tensor that `where` names, as a view."""
    assert where.expert is not None
    expert = stacked[where.expert]
    return expert if where.part == "down" else expert.chunk(2)[where.part == "up"]


def stored_tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """(stored name, tensor or view of one) in the published layout, prediction modules with their copies."""
    tensors = dict(model.state_dict())
    tensors |= {name: tensors[of] for name, of in copies(model).items() if name.startswith("mtp.")}
    for name, tensor in tensors.items():
        stored = _stored(name, model.config.layers)
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            yield stored, tensor
            continue
        prefix, _, kind = stored.rpartition(".")
        for expert in range(tensor.shape[0]):
            for part in ("down",) if kind == "down_proj" else ("gate", "up"):
                yield f"{prefix}.{expert}.{part}_proj.weight", rows(tensor, Place(name, expert, part))


def _stored(name: str, layers: int) -> str:
    """The inverse of `place` for a tensor that is not one expert's."""
    if name.startswith("lm_head."):
        return name
    if name == "embed.weight":
        return "model.embed_tokens.weight"
    if name.startswith("mtp."):
        _, depth, rest = name.split(".", 2)
        beside = {ours: stored for stored, ours in _BESIDE.items()}
        name = f"layers.{layers + int(depth)}.{beside.get(rest, rest.removeprefix('block.'))}"
    return f"model.{name.replace(f'{_LATENT[0]}.', f'{_LATENT[1]}.')}"
