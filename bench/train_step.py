"""The training step beside its peers, in one run: forward and backward of 4 x 512 tokens, SmolLM2-135M's
shape.

    python bench/train_step.py [--rounds 8] [--json]

Peers: `transformers` eager in bf16; a plain loop in the manner of nanoGPT (the whole model under
torch.compile, torch's attention, whole logits, bf16); and the step's own matrix products replayed alone, with
the same shapes, strides and dtypes. Each round takes them one after the other; ratios are of one round, their
median is told. Needs `transformers` (make setup-dev) and a C++ compiler.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mythos.model.attention import causal_attend
from mythos.model.transformer import Transformer
from mythos.spec.load import load_family
from mythos.train.forward import Packed, Trainee
from mythos.train.loss import weighted_cross_entropy
from mythos.train.weights import computing, fresh_model

ROWS, LENGTH = 4, 512
PRODUCTS = ("aten.mm", "aten.addmm", "aten.addmm_", "aten.bmm", "aten.baddbmm", "aten._grouped_mm")


def batch(vocab: int) -> tuple[Packed, Tensor]:
    tokens = torch.randint(0, vocab, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(LENGTH).expand(ROWS, LENGTH)
    return Packed(tokens[:, :-1], positions, torch.zeros_like(positions)), tokens[:, 1:].flatten()


def our_step(model: Transformer, compiled: bool, recompute: bool = False) -> Callable[[], Tensor]:
    trainee = Trainee(model, compiled, recompute)
    packed, targets_T = batch(model.config.vocab)
    weights_T1 = torch.full((len(targets_T), 1), 1 / len(targets_T))

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        x_TD, _ = trainee.hidden(packed)
        loss = weighted_cross_entropy(x_TD, trainee.head_VD, targets_T[:, None], weights_T1, compiled)
        loss.backward()
        return loss.detach()

    return step


def nanogpt_step(model: Transformer) -> Callable[[], Tensor]:
    packed, targets_T = batch(model.config.vocab)
    attend = causal_attend([LENGTH] * ROWS)

    @torch.compile(dynamic=False)
    def loss_of(tokens_T: Tensor, positions_T: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens_T, positions_T, attend).float(), targets_T)

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = loss_of(packed.tokens_RL.flatten(), packed.positions_RL.flatten())
        loss.backward()
        return loss.detach()

    return step


def transformers_step(model: Transformer) -> Callable[[], Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    from mythos.model.hf_config import config_to_hf

    peer = LlamaForCausalLM(LlamaConfig(**config_to_hf(model.config)))
    frequencies = peer.model.rotary_emb.inv_freq.clone()
    state = {
        ("model." + n).replace("model.embed.", "model.embed_tokens."): t
        for n, t in model.state_dict().items()
    }
    peer.load_state_dict(state, strict=False)
    peer = peer.to(torch.bfloat16)
    peer.model.rotary_emb.inv_freq = frequencies  # `.to` rounds it for good
    packed, targets_T = batch(model.config.vocab)

    def step() -> Tensor:
        peer.zero_grad(set_to_none=True)
        loss = peer(
            packed.tokens_RL, labels=targets_T.view(ROWS, LENGTH), shift_labels=targets_T.view(ROWS, LENGTH)
        ).loss
        loss.backward()
        return loss.detach()

    return step


class Recorder(TorchDispatchMode):
    """Keeps the matrix products that run under it: the operator and its operands' shapes, strides
    and dtypes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if str(func).rsplit(".", 1)[0] in PRODUCTS:
            self.calls.append((func, *tree_map_only(Tensor, _like, (args, kwargs))))
        return func(*args, **kwargs)


def _like(tensor: Tensor) -> Tensor:
    """Of the same shape, strides and dtype; what is no number stays, as it says which rows are whose."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).normal_()


def replay_of(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A step of nothing but the products of `step`, which runs once, eagerly, to record them."""
    with Recorder() as recorder:
        step()

    def replay() -> Tensor:
        for func, args, kwargs in recorder.calls:
            func(*args, **kwargs)
        return torch.zeros(())

    return replay


def gradient_error() -> dict[str, float]:
    """How far each way's gradient lies from the float32 one, relative to that: the whole gradient's norm."""
    config = load_family("pocket").tier("opus").config
    packed, targets_T = batch(config.vocab)
    attend = causal_attend([LENGTH] * ROWS)

    def plain(model: Transformer) -> dict[str, Tensor]:
        logits = model(packed.tokens_RL.flatten(), packed.positions_RL.flatten(), attend).float()
        F.cross_entropy(logits, targets_T).backward()
        return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}

    def trained(model: Transformer) -> dict[str, Tensor]:
        our_step(model, compiled=True)()
        return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}

    exact = plain(fresh_model(config, 0))
    size = sum(g.square().sum() for g in exact.values()).sqrt()
    found = {}
    for name, way in (("ours", trained), ("plain bf16", plain)):
        gradient = way(computing(fresh_model(config, 0)))
        found[name] = (sum((gradient[n] - exact[n]).square().sum() for n in exact).sqrt() / size).item()
    return found


def seconds(step: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--arms", default="ours,transformers,nanogpt,products")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load_family("pocket").tier("opus").config

    def model() -> Transformer:
        return computing(fresh_model(config, 0))

    makers = {
        "ours": lambda: our_step(model(), compiled=True),
        "eager": lambda: our_step(model(), compiled=False),
        "recompute": lambda: our_step(model(), compiled=True, recompute=True),
        "transformers": lambda: transformers_step(fresh_model(config, 0)),
        "nanogpt": lambda: nanogpt_step(model()),
        "products": lambda: replay_of(our_step(model(), compiled=False)),
    }
    arms = {name: makers[name]() for name in options.arms.split(",")}
    for name, arm in arms.items():
        print(f"{name}: first step {seconds(arm):.1f} s", flush=True)
    for arm in arms.values():
        arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, arm in arms.items():
            times[name].append(seconds(arm))
    tokens = ROWS * LENGTH
    report = {
        name: {
            "tokens_per_second": [tokens / max(took), tokens / statistics.median(took), tokens / min(took)],
            "ours_is_faster_by": statistics.median(t / o for t, o in zip(took, times["ours"], strict=True)),
        }
        for name, took in times.items()
    }
    error = gradient_error()
    if options.json:
        print(json.dumps({"arms": report, "gradient_error": error}))
        return
    for name, row in report.items():
        low, middle, high = row["tokens_per_second"]
        print(
            f"{name:14} {middle:7.0f} tok/s ({low:.0f} to {high:.0f})   "
            f"time / ours {row['ours_is_faster_by']:.3f}"
        )
    ratio = error["ours"] / error["plain bf16"]
    print(f"gradient error {error['ours']:.4f}, a plain bf16 step {error['plain bf16']:.4f}: {ratio:.3f}")


if __name__ == "__main__":
    main()
