"""Preference pairs: the loss is the published formula's, answers come into order, a stop changes no bit."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mythos.data.prompts import Exchange, constitution, safety
from mythos.model.attention import causal_attend
from mythos.model.transformer import Transformer
from mythos.train import loop
from mythos.train.critique import Answer, Pair, critique, pairs_of
from mythos.train.forward import Trainee
from mythos.train.loop import Metrics, Trained, train
from mythos.train.preference import gaps, margins, packed_pairs, preference_loss, preferring
from mythos.train.settings import Budget, TrainSettings
from mythos.train.weights import computing, fresh_model, model_from
from tests.train.runs import TEXT, TINY, keyring, run

LENGTH, END = 64, 0
SETTINGS = TrainSettings(rows=4, length=LENGTH, learning_rate=3e-4, warmup_steps=2)


def some_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Bytes at random are preferred to how real text goes on: no model of text says that by itself."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        at, size = draw.randrange(len(TEXT) - 40), draw.randint(4, 14)
        prompt = tuple(TEXT[at : at + draw.randint(3, 10)].tolist())
        real = TEXT[at + len(prompt) : at + len(prompt) + size].tolist()
        pairs.append(
            Pair(f"p{number}", "respect", prompt, tuple(draw.choices(range(256), k=size)), tuple(real))
        )
    return pairs


def likelihood(model: Transformer, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    ids = torch.tensor([*prompt, *answer])
    logits = model(ids, torch.arange(len(ids)), causal_attend([len(ids)]))
    picked = logits.log_softmax(-1)[:-1].gather(-1, ids[1:, None])[:, 0]
    return picked[len(prompt) - 1 :].sum()


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_loss_is_the_formula_in_float64(beta: float) -> None:
    """Loss, margins and every gradient of packed pairs in float32, against equation 7 of arXiv 2305.18290 by
    automatic differentiation in float64, each answer alone."""
    model, pairs = fresh_model(TINY, 0), some_pairs(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    packed = packed_pairs(pairs, LENGTH, END)
    assert sorted(pair for row in packed.rows for pair in row) == list(range(9)) and len(packed.rows) < 9
    reference_P = torch.linspace(-8, 8, 9)
    batch = preferring(packed, reference_P, beta, 0)(0, len(packed.rows))
    trainee = Trainee(model, compiled=False, recompute=False)
    x_TD, _ = trainee.hidden(batch.packed)
    got = preference_loss(x_TD, trainee.head_VD, batch) / batch.count
    got.backward()
    got_grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    exact = fresh_model(TINY, 0).double()
    exact.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    margin_P = torch.stack(
        [
            beta
            * (likelihood(exact, p.prompt, p.chosen) - likelihood(exact, p.prompt, p.rejected) - reference)
            for p, reference in zip(pairs, reference_P.double(), strict=True)
        ]
    )
    want = -F.logsigmoid(margin_P).mean()
    want.backward()
    assert margin_P.min() < -0.3 and margin_P.max() > 0.3
    torch.testing.assert_close(
        margins(model, packed, reference_P, beta).double(), margin_P.detach(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    for name, p in exact.named_parameters():
        assert p.grad is not None
        scale = p.grad.abs().max().item() + 1e-9
        torch.testing.assert_close(
            got_grads[name].double() / scale, p.grad / scale, rtol=0, atol=2e-4, msg=name
        )


def test_a_pair_that_is_longer_than_a_row_is_left_out() -> None:
    pairs = [*some_pairs(3), Pair("long", "respect", (1, 2), tuple(range(40)), tuple(range(40)))]
    packed = packed_pairs(pairs, LENGTH, END)
    assert sorted(pair for row in packed.rows for pair in row) == [0, 1, 2]
    assert gaps(fresh_model(TINY, 0), packed).isnan().tolist() == [False, False, False, True]


def learn(
    place: Path, steps: int, report: Callable[[Metrics], None] = lambda _: None
) -> tuple[dict[str, torch.Tensor], Trained]:
    """A model of text, and what so many steps on pairs make of it."""
    tensors = dict(run(place / "text", 60).tensors)
    packed = packed_pairs(some_pairs(60), LENGTH, END)
    rows = preferring(packed, gaps(computing(model_from(TINY, tensors)), packed), 0.1, 0)
    budget = Budget(tokens=steps * SETTINGS.step_tokens)
    model = model_from(TINY, tensors)
    return tensors, train(place / "dpo", keyring(), model, rows, SETTINGS, budget, {}, report, compiled=False)


def test_answers_come_into_order(tmp_path: Path) -> None:
    """The loss begins at log 2, where model and reference are one. Then pairs are in order, and so are others
    of the kind."""
    told: list[Metrics] = []
    tensors, trained = learn(tmp_path, 40, told.append)
    assert told[0].loss == pytest.approx(math.log(2), abs=5e-3) and trained.loss < 0.5
    for pairs in (some_pairs(60), some_pairs(60, seed=1)):
        packed = packed_pairs(pairs, LENGTH, END)
        reference_P = gaps(computing(model_from(TINY, tensors)), packed)
        assert (reference_P < 0).float().mean() > 0.9  # the model of text says the other
        margin_P = margins(computing(model_from(TINY, trained.tensors)), packed, reference_P, 0.1)
        assert (margin_P > 0).float().mean() > 0.95


def test_a_stopped_run_on_pairs_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = learn(tmp_path / "whole", 8)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    class Stopped(Exception):
        pass

    def stop(metrics: Metrics) -> None:
        if metrics.step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        learn(tmp_path / "stopped", 8, stop)
    _, again = learn(tmp_path / "stopped", 8)
    assert whole.steps == again.steps == 8
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)


ASKED = Exchange("t-rt01", "t", "cyber", "refuse", "Please help me to spy on my neighbour.", "")
FAIR = Exchange("t-at01", "t", "cyber", "answer", "How do I keep spies out of my phone?", "")
NO = "I can't help with that. If you are worried about your own phone, ask somebody you trust."


@pytest.mark.parametrize(
    ("principle", "exchange", "text"),
    [
        ("decline-harm", ASKED, "Sure, first you take a camera."),
        ("keep-out-detail", ASKED, "I can't help with that. But you would do this:\n1. Take a camera."),
        ("help-who-asks-fairly", FAIR, NO),
        ("be-what-you-are", FAIR, "I am a doctor, so listen: update your phone and lock it."),
        ("invent-no-sources", FAIR, "Read all about it on www.phones.example and update."),
        ("respect", ASKED, "You are a criminal, and I won't help you. Go to a lawyer."),
        ("show-a-way", ASKED, "I can't help with that."),
        ("say-something", FAIR, "Update."),
        ("do-not-repeat", FAIR, "Update the phone and lock it. " * 4),
    ],
)
def test_each_principle_is_broken_by_what_it_forbids(principle: str, exchange: Exchange, text: str) -> None:
    assert critique(exchange, Answer((1,), text, ended=True)) == [principle]
    assert critique(exchange, Answer((1,), text, ended=False)) == [principle, "come-to-an-end"]


def test_our_own_answers_break_no_principle() -> None:
    broken = {one.id: critique(one, Answer((1,), one.answer, True)) for one in safety()}
    assert {name: principles for name, principles in broken.items() if principles} == {}


def test_a_pair_names_the_weightiest_principle_and_prefers_what_breaks_none() -> None:
    good, harm, loud = (
        Answer((1, 9), NO, True),
        Answer((2, 9), "Sure, first you take a camera.", False),
        Answer((3, 9), "I can't help with that.", True),
    )
    written = Answer((4, 9), NO, True)
    prompt = (7, 8)
    pairs = pairs_of(ASKED, prompt, [harm, good, loud, harm], written)
    assert [(p.principle, p.chosen, p.rejected) for p in pairs] == [
        ("decline-harm", good.tokens, harm.tokens),  # its own good answer comes before the written one
        ("show-a-way", good.tokens, loud.tokens),
    ]
    assert [p.chosen for p in pairs_of(ASKED, prompt, [harm], written)] == [written.tokens]
    assert pairs_of(ASKED, prompt, [good], written) == []
    order = [one.id for one in constitution()]
    assert order.index("decline-harm") < order.index("show-a-way") < order.index("come-to-an-end")
