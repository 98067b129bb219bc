"""On-policy distillation: the divergence against a plain one, the rows, the student nearing its teacher."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mythos.data.tokenizer import Tokenizer
from mythos.model.attention import causal_attend
from mythos.spec.config import MoEConfig
from mythos.spec.family import Tier
from mythos.spec.load import load_family
from mythos.train import loop
from mythos.train.batch import Batch
from mythos.train.forward import Trainee
from mythos.train.loop import Metrics, Trained, train
from mythos.train.on_policy import on_policy, row_seed, sampler
from mythos.train.reverse_kl import reverse_kl
from mythos.train.settings import Budget
from mythos.train.weights import computing, fresh_model, model_from
from tests.data.small import tokenizer_json
from tests.train.runs import SETTINGS, TINY, batches, keyring

WIDE = replace(TINY, vocab=300)  # with the tokenizer of tests/data: bytes, and control tokens
TIER: Tier = replace(load_family("nano").tier("haiku"), config=WIDE)


def plain(logits_TV: torch.Tensor, taught: list[torch.Tensor], weights_T: torch.Tensor) -> torch.Tensor:
    """The definition, in float64."""
    p = logits_TV.double().softmax(-1)
    q = torch.stack([one.double().softmax(-1) for one in taught]).mean(0)
    return ((p * (p.log() - q.log())).sum(-1) * weights_T).sum()


@pytest.mark.parametrize("teachers", [1, 2])
def test_the_loss_and_its_gradient_are_the_plain_ones(teachers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mythos.train.reverse_kl.CHUNK", 16)
    random = torch.Generator().manual_seed(0)
    x, head = (torch.randn(n, 12, generator=random).requires_grad_() for n in (70, 50))
    taught = [
        (torch.randn(70, 8 + n, generator=random), torch.randn(50, 8 + n, generator=random))
        for n in range(teachers)
    ]
    weights = (torch.arange(70) % 3).float()  # every third place counts nothing, others once or twice
    loss = reverse_kl(x, head, taught, weights)
    (3 * loss).backward()
    x64, head64 = (t.detach().double().requires_grad_() for t in (x, head))
    want = plain(x64 @ head64.T, [a.double() @ b.double().T for a, b in taught], weights.double())
    (3 * want).backward()
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    for here, there in ((x, x64), (head, head64)):
        assert here.grad is not None and there.grad is not None
        torch.testing.assert_close(here.grad.double(), there.grad, rtol=1e-4, atol=1e-4)
    assert (x.grad[::3] == 0).all()
    same = reverse_kl(x, head, [(x.detach(), head.detach())], weights)
    assert same.item() == pytest.approx(0, abs=1e-4)


def student(seed: int = 0):
    return fresh_model(WIDE, seed)


def taught_by(model, teacher) -> loop.Batches:
    return on_policy(batches, sampler(TIER, model, tokenizer_json()), [teacher], 0)


def test_rows_are_prompts_and_what_the_student_says_to_them() -> None:
    model, teacher = computing(student()), computing(student(1)).requires_grad_(False)
    batch, given = taught_by(model, teacher)(4, 3), batches(4, 3).packed
    ends = Tokenizer.from_bytes(tokenizer_json()).eos_ids
    tokens_RL, weights_RL = batch.packed.tokens_RL, batch.weights_TA.view(3, 64)
    assert torch.equal(tokens_RL[:, :48], given.tokens_RL[:, :48])
    assert batch.count == int(weights_RL.sum()) and (weights_RL[:, :47] == 0).all()
    attend, positions = causal_attend([64]), torch.arange(64)
    for row in range(3):
        counted = weights_RL[row].nonzero().flatten().tolist()
        assert counted == list(range(47, 47 + len(counted)))
        said = tokens_RL[row, 48 : 47 + len(counted)].tolist()
        assert len(said) <= 16 and not ends.intersection(said)
        if len(said) < 16:  # it ended by itself: what fills the row up is a document of its own
            assert batch.packed.positions_RL[row, 47 + len(counted)] == 0
    again = taught_by(model, teacher)(4, 3)
    assert torch.equal(again.packed.tokens_RL, tokens_RL)
    alone = taught_by(model, teacher)(5, 1)
    assert alone.packed.tokens_RL.shape == (1, 64) and row_seed(0, 5) != row_seed(0, 4) != row_seed(1, 4)
    x_TD, head_VD = batch.teachers[0]
    logits = teacher(tokens_RL[0], positions, attend).float()
    whole = int(weights_RL[0].nonzero().max()) + 1
    torch.testing.assert_close((x_TD @ head_VD.T).float()[:whole], logits[:whole], rtol=0.1, atol=0.1)


def test_it_samples_from_the_weights_as_they_are_now() -> None:
    """A student whose head is turned to one token says that token, without being loaded again."""
    model = computing(student())
    sample = sampler(TIER, model, tokenizer_json())
    before = sample([[1, 2, 3]], [7], 12)
    assert sample([[1, 2, 3]], [7], 12) == before
    with torch.no_grad():
        model.embed.weight.zero_()
        model.norm.weight.fill_(1.0)
        model.embed.weight[65] = 50.0
    assert sample([[65, 65]], [7], 12) == [[65] * 12]


def run(place: Path, config, steps: int, told: list[Metrics], **changes) -> Trained:
    model = fresh_model(config, 0)
    teacher = computing(fresh_model(WIDE, 1)).requires_grad_(False)
    tier = replace(TIER, config=config)
    spoken = on_policy(batches, sampler(tier, model, tokenizer_json()), [teacher], 0)
    settings = replace(SETTINGS, **changes)
    budget = Budget(tokens=steps * settings.step_tokens)
    return train(place, keyring(), model, spoken, settings, budget, {}, told.append, compiled=False)


def test_the_student_nears_its_teacher_in_its_own_words(tmp_path: Path) -> None:
    """A teacher that has learnt some text; the divergence on fresh samples falls by more than half."""
    settings = replace(SETTINGS, optimiser="muon")
    learnt = Budget(tokens=60 * settings.step_tokens)
    made = train(
        tmp_path / "t", keyring(), fresh_model(WIDE, 1), batches, settings, learnt, {}, compiled=False
    )
    teacher = computing(model_from(WIDE, made.tensors)).requires_grad_(False)
    model = fresh_model(WIDE, 0)
    spoken = on_policy(batches, sampler(TIER, model, tokenizer_json()), [teacher], 0)
    told: list[Metrics] = []
    budget = Budget(tokens=25 * settings.step_tokens)
    train(tmp_path / "s", keyring(), model, spoken, settings, budget, {}, told.append, compiled=False)
    first, last = (sum(one.loss for one in part) / 5 for part in (told[:5], told[-5:]))
    assert 0 < last < 0.5 * first, (first, last)


MOE = replace(WIDE, moe=MoEConfig(routed=4, top_k=2, width=32, bias=True))


@pytest.mark.parametrize(
    ("config", "changes"), [(WIDE, {}), (MOE, {"balance": "quantile", "accumulate": 2, "rows": 2})]
)
def test_a_stopped_run_samples_the_same_and_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config, changes
) -> None:
    class Stopped(Exception):
        pass

    class Stopping(list):
        def append(self, metrics: Metrics) -> None:
            super().append(metrics)
            if metrics.step == 4:
                raise Stopped

    whole = run(tmp_path / "whole", config, 6, [], **changes)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Stopped):
        run(tmp_path / "parts", config, 6, Stopping(), **changes)
    monkeypatch.undo()
    told: list[Metrics] = []
    again = run(tmp_path / "parts", config, 6, told, **changes)
    assert [metrics.step for metrics in told] == [4, 5, 6]  # the fourth was told before it was kept
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in whole.tensors)


def test_nothing_of_a_prompt_is_learnt() -> None:
    """The gradient does not change with what the teacher thinks of the prompt."""
    model, teacher = computing(student()), computing(student(1)).requires_grad_(False)
    batch = taught_by(model, teacher)(0, 2)
    x_TD, _ = Trainee(model, compiled=False, recompute=False).hidden(batch.packed)
    other = tuple((torch.where(batch.weights_TA > 0, x, -x), head) for x, head in batch.teachers)
    changed = Batch(batch.packed, batch.targets_TA, batch.weights_TA, batch.count, teachers=other)
    losses = [
        reverse_kl(x_TD, model.embed.weight, of.teachers, of.weights_TA[:, 0]) for of in (batch, changed)
    ]
    assert torch.equal(losses[0], losses[1]) and losses[0] > 0
