"""What moves the weights: AdamW as torch has it, and rates of their own for experts."""

import math
from typing import Literal

import pytest
import torch
from torch import nn

from mythos.model.transformer import Transformer
from mythos.spec.config import ModelConfig, MoEConfig
from mythos.train.optim import Optimiser
from mythos.train.parallel.optim import ShardedOptimiser
from mythos.train.settings import TrainError, TrainSettings
from mythos.train.weights import computing, fresh_model

CONFIG = ModelConfig(
    vocab=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn=24, context=64,
    moe=MoEConfig(routed=3, top_k=2, width=24, bias=True),
)  # fmt: skip
RATES = (2.0, 1.0, 0.0)


def stepped(settings: TrainSettings, steps: int = 3) -> Optimiser:
    model = fresh_model(CONFIG, 0)
    optimiser = Optimiser(model, settings)
    go_on(model, optimiser, 0, steps)
    return optimiser


def go_on(model: Transformer, optimiser: Optimiser, first: int, steps: int) -> None:
    for step in range(first, first + steps):
        give_gradients(model, step)
        optimiser.collect()
        optimiser.step(1.0)


def give_gradients(model: Transformer, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random).to(parameter.dtype)


@pytest.mark.parametrize("clip", [1e9, 1.0])
def test_adamw_is_torch_s(clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bf16 weights with float32 masters, two batches a step, in chunks: torch's on the sum, the same bits
    but for what clipping rounds.
    """
    monkeypatch.setattr("mythos.train.optim.CHUNK", 64)
    settings = TrainSettings(learning_rate=1e-2, weight_decay=0.3, clip=clip)
    model = fresh_model(CONFIG, 0)
    optimiser = Optimiser(model, settings)
    computing(model)
    wanted = {name: nn.Parameter(master.clone()) for name, master in optimiser.masters.items()}
    groups = [
        {"params": [p for p in wanted.values() if p.dim() > 1]},
        {"params": [p for p in wanted.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    peer = torch.optim.AdamW(groups, lr=1e-2, betas=settings.betas, weight_decay=0.3, fused=True)
    for step in range(3):
        peer.zero_grad()
        for batch in range(2):
            give_gradients(model, 10 * step + batch)
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                before = wanted[name].grad
                wanted[name].grad = parameter.grad.float() + (0.0 if before is None else before)
            optimiser.collect()
        norm = nn.utils.clip_grad_norm_(wanted.values(), clip).item()
        peer.step()
        assert optimiser.step(1.0) == pytest.approx(norm, rel=1e-6)
    apart = 0.0 if clip == 1e9 else 1e-6
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(optimiser.masters[name], wanted[name].detach(), rtol=apart, atol=apart)
        assert torch.equal(parameter.detach(), optimiser.masters[name].to(parameter.dtype)), name


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_gradient_that_is_not_finite_moves_nothing(optimiser: Literal["adamw", "muon"]) -> None:
    """Nor does it count as a step."""
    settings = TrainSettings(optimiser=optimiser)
    model, same = fresh_model(CONFIG, 0), stepped(settings, 2).masters
    trained = Optimiser(model, settings)
    go_on(model, trained, 0, 1)
    give_gradients(model, 5)
    grad = model.layers[1].self_attn.q_proj.weight.grad
    assert grad is not None
    grad[3, 4] = float("inf")
    trained.collect()
    assert not math.isfinite(trained.step(1.0))
    go_on(model, trained, 1, 1)
    assert all(torch.equal(same[name], trained.masters[name]) for name in same)


def test_each_expert_moves_at_its_own_rate() -> None:
    """As the whole model does at that rate; what lies outside the experts does not notice."""
    own = stepped(TrainSettings(learning_rate=1e-3, expert_rates=RATES)).masters
    start = Optimiser(fresh_model(CONFIG, 0), TrainSettings()).masters
    for expert, times in enumerate(RATES):
        alike = stepped(TrainSettings(learning_rate=max(1e-12, 1e-3 * times))).masters if times else start
        for name, master in own.items():
            if ".experts." in name:
                assert torch.equal(master[expert], alike[name][expert]), (name, expert)
    plain = stepped(TrainSettings(learning_rate=1e-3)).masters
    assert all(torch.equal(plain[name], own[name]) for name in own if ".experts." not in name)


@pytest.mark.parametrize("settings", [
    TrainSettings(learning_rate=1e-3),
    TrainSettings(learning_rate=1e-3, expert_rates=RATES),
    TrainSettings(learning_rate=1e-3, optimiser="muon"),
])  # fmt: skip
def test_a_restored_one_goes_on_with_the_same_bits(settings: TrainSettings) -> None:
    whole, half = stepped(settings, 4), stepped(settings, 2)
    model = fresh_model(CONFIG, 1)
    again = Optimiser(model, settings)
    again.restore({name: tensor.clone() for name, tensor in half.state().items()})
    go_on(model, again, 2, 2)
    assert all(torch.equal(whole.masters[name], again.masters[name]) for name in whole.masters)
    assert whole.state().keys() == again.state().keys()


def test_rates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TrainError, match="2 rates are given"):
        Optimiser(fresh_model(CONFIG, 0), TrainSettings(expert_rates=(1.0, 2.0)))
    with pytest.raises(TrainError, match="On a mesh"):  # before it looks at the model
        ShardedOptimiser(None, TrainSettings(expert_rates=RATES))
    with pytest.raises(TrainError, match="AdamW's"):
        TrainSettings(optimiser="muon", expert_rates=RATES)
    with pytest.raises(TrainError, match="from 0 up"):
        TrainSettings(expert_rates=(1.0, -1.0))
