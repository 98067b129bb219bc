"""Rates of their own for experts."""

import pytest
import torch

from mythos.spec.config import ModelConfig, MoEConfig
from mythos.train.optim import Optimiser
from mythos.train.parallel.optim import ShardedOptimiser
from mythos.train.settings import TrainError, TrainSettings
from mythos.train.weights import fresh_model

CONFIG = ModelConfig(
    vocab=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn=24, context=64,
    moe=MoEConfig(routed=3, top_k=2, width=24, bias=True),
)  # fmt: skip
RATES = (2.0, 1.0, 0.0)


def stepped(settings: TrainSettings, steps: int = 3) -> Optimiser:
    optimiser = Optimiser(fresh_model(CONFIG, 0), settings)
    go_on(optimiser, 0, steps)
    return optimiser


def go_on(optimiser: Optimiser, first: int, steps: int) -> None:
    for step in range(first, first + steps):
        random = torch.Generator().manual_seed(step)
        for master in optimiser.masters.values():
            master.grad = torch.randn(master.shape, generator=random)
        optimiser.step(1.0)


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


@pytest.mark.parametrize("rates", [(), RATES])
def test_a_restored_one_goes_on_with_the_same_bits(rates: tuple[float, ...]) -> None:
    settings = TrainSettings(learning_rate=1e-3, expert_rates=rates)
    whole, half = stepped(settings, 4), stepped(settings, 2)
    again = Optimiser(fresh_model(CONFIG, 1), settings)
    again.restore({name: tensor.clone() for name, tensor in half.state().items()})
    go_on(again, 2, 2)
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
