"""The training pass against the plain model: packed equals unpacked, chunked loss equals plain, balance."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mythos.model.attention import causal_attend
from mythos.model.moe import Router
from mythos.model.transformer import Transformer
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.train import loss as loss_module
from mythos.train.attention import packed_attend
from mythos.train.balance import load, quantile_bias, rebalance
from mythos.train.batch import Batch, further
from mythos.train.forward import Packed, Trainee
from mythos.train.loss import cross_entropy, weighted_cross_entropy
from mythos.train.weights import fresh_model

CONFIG = ModelConfig(vocab=97, layers=2, width=32, heads=6, kv_heads=2, head_dim=8, ffn=64, context=512)
MOE = replace(CONFIG, moe=MoEConfig(routed=4, top_k=2, width=32))
LATENT = replace(
    MOE, head_dim=12, mla=MLAConfig(kv_rank=16, nope_dim=8, rope_dim=4, value_dim=10, q_rank=24), mtp=2,
    moe=MoEConfig(routed=4, top_k=2, width=32, shared=1, score="sigmoid", bias=True, latent=16),
)  # fmt: skip


def packed(lengths: list[int], rows: int) -> Packed:
    positions = torch.cat([torch.arange(length) for length in lengths]).view(rows, -1)
    starts = torch.arange(positions.shape[1]) - positions
    tokens = torch.randint(0, 97, positions.shape, generator=torch.Generator().manual_seed(0))
    return Packed(tokens, positions, starts)


def gradients(model: Transformer) -> dict[str, Tensor]:
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


@pytest.mark.parametrize("config", [CONFIG, MOE, replace(CONFIG, tied=False, qk_norm=True), LATENT])
@pytest.mark.parametrize("lengths", [[300, 300], [100, 60, 140, 1, 299], [200] * 3])
def test_packed_documents_equal_documents_alone(config: ModelConfig, lengths: list[int]) -> None:
    """Loss and every gradient, in float32, against the model's own pass over one document at a time."""
    model = fresh_model(config, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # attention that is not nearly flat
    batch = packed(lengths, 600 // sum(lengths[:1]) if len(set(lengths)) == 1 else 2)
    targets_T = torch.randint(-1, 97, (600,), generator=torch.Generator().manual_seed(1))
    trainee = Trainee(model, compiled=False, recompute=False)
    got = cross_entropy(trainee.hidden(batch)[0], trainee.head_VD, targets_T)
    got.backward()
    got_grads = gradients(model)
    want = torch.zeros(())
    for tokens, targets in zip(
        batch.tokens_RL.flatten().split(lengths), targets_T.split(lengths), strict=True
    ):
        logits = model(tokens, torch.arange(len(tokens)), causal_attend([len(tokens)]))
        want = want + F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    want.backward()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)
    for name, grad in gradients(model).items():
        scale = grad.abs().max().item() + 1e-6
        torch.testing.assert_close(got_grads[name] / scale, grad / scale, rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("lengths", [[300, 300], [100, 60, 140, 1, 299]])
def test_predictions_of_packed_documents_equal_documents_alone(lengths: list[int]) -> None:
    """Loss and gradients of every prediction module, over the tokens whose target lies in their document."""
    model, batch = fresh_model(LATENT, 0), packed(lengths, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    targets_T = torch.randint(-1, 97, (600,), generator=torch.Generator().manual_seed(1))
    whole = Batch(batch, targets_T[:, None], torch.ones(600, 1), 600)
    trainee = Trainee(model, compiled=False, recompute=False)
    x_TD, _ = trainee.hidden(batch)
    got = torch.zeros(())
    for places, y_TD in enumerate(trainee.ahead(batch, x_TD)[0], 1):
        later = further(whole, places)
        got = got + weighted_cross_entropy(y_TD, trainee.head_VD, later.targets_TA, later.weights_TA)
    got.backward()
    got_grads = gradients(model)
    seen = []
    hook = model.norm.register_forward_hook(lambda _m, _x, out: seen.append(out))
    want = torch.zeros(())
    for tokens, targets in zip(
        batch.tokens_RL.flatten().split(lengths), targets_T.split(lengths), strict=True
    ):
        model(tokens, torch.arange(len(tokens)), causal_attend([len(tokens)]))
        state = seen.pop()
        for depth in range(LATENT.mtp):
            count = len(tokens) - depth - 1  # of those that have a token so much later
            if count < 1:
                break
            later = tokens[depth + 1 :]
            state = model.ahead(depth, state[:count], later, torch.arange(count), causal_attend([count]))
            want = want + F.cross_entropy(
                state @ model.embed.weight.T, targets[depth + 1 :], ignore_index=-1, reduction="sum"
            )
    hook.remove()
    want.backward()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)
    for name, grad in gradients(model).items():
        scale = grad.abs().max().item() + 1e-6
        torch.testing.assert_close(got_grads[name] / scale, grad / scale, rtol=0, atol=2e-4, msg=name)


def test_recompute_has_the_same_gradients() -> None:
    model, batch, targets_T = fresh_model(MOE, 0), packed([300, 300], 2), torch.arange(600) % 97
    found = []
    for recompute in (False, True):
        trainee = Trainee(model, compiled=False, recompute=recompute)
        cross_entropy(trainee.hidden(batch)[0], trainee.head_VD, targets_T).backward()
        found.append(gradients(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.slow
def test_the_compiled_pass_has_the_same_gradients() -> None:
    for config in (CONFIG, MOE, LATENT):
        model, batch, targets_T = fresh_model(config, 0), packed([100, 200, 300], 2), torch.arange(600) % 97
        found = []
        for compiled in (False, True):
            trainee = Trainee(model, compiled=compiled, recompute=False)
            cross_entropy(trainee.hidden(batch)[0], trainee.head_VD, targets_T).backward()
            found.append(gradients(model))
        for name, grad in found[0].items():
            torch.testing.assert_close(found[1][name], grad, rtol=1e-3, atol=1e-4, msg=name)


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 40), targets=st.integers(1, 5), chunk=st.integers(1, 50), seed=st.integers(0, 2**16)
)
def test_the_chunked_loss_equals_the_plain_one(tokens: int, targets: int, chunk: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(tokens, 8, generator=random, requires_grad=True)
    head_VD = torch.randn(31, 8, generator=random, requires_grad=True)
    targets_TA = torch.randint(-1, 31, (tokens, targets), generator=random)
    weights_TA = torch.randn(tokens, targets, generator=random)  # a preference pair's may be negative
    before, loss_module.CHUNK = loss_module.CHUNK, chunk
    try:
        got = weighted_cross_entropy(x_TD, head_VD, targets_TA, weights_TA)
    finally:
        loss_module.CHUNK = before
    got_x, got_head = torch.autograd.grad(3.0 * got, (x_TD, head_VD))
    logs_TV = (x_TD @ head_VD.T).log_softmax(-1)
    picked_TA = logs_TV.gather(-1, targets_TA.clamp(min=0))
    want = -(torch.where(targets_TA < 0, 0.0, weights_TA) * picked_TA).sum()
    want_x, want_head = torch.autograd.grad(3.0 * want, (x_TD, head_VD))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got_x, want_x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got_head, want_head, atol=1e-4, rtol=1e-4)


def test_the_head_s_gradient_of_many_chunks_is_as_near_to_float32_as_that_of_one(monkeypatch) -> None:
    random = torch.Generator().manual_seed(0)
    x_TD, head_VD = (torch.randn(rows, 32, generator=random).bfloat16() for rows in (1024, 97))
    targets_T = torch.randint(97, (1024,), generator=random)

    def error(chunk: int) -> Tensor:
        monkeypatch.setattr(loss_module, "CHUNK", chunk)
        found = []
        for dtype in (torch.bfloat16, torch.float32):
            head = head_VD.to(dtype).requires_grad_()
            found += torch.autograd.grad(cross_entropy(x_TD.to(dtype), head, targets_T), head)
        return (found[0].float() - found[1]).norm() / found[1].norm()

    assert error(chunk=4) <= 1.25 * error(chunk=1024)


def test_attention_in_bf16_is_nearly_as_near_to_float32_as_torch_s_own() -> None:
    """Scores leave the matrix product in bf16, torch keeps them in float32: up to 1.3 times its
    error alone.
    """
    random = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(2 * 256, heads, 32, generator=random) for heads in (6, 2, 2, 6))
    starts = torch.zeros(2, 256, dtype=torch.long)

    def through(attend, dtype: torch.dtype) -> list[Tensor]:
        inputs = [t.detach().to(dtype, copy=True).requires_grad_() for t in (q, k, v)]
        out = attend(0, *inputs)
        out.backward(g.to(dtype))
        return [out.detach().float(), *(t.grad.float() for t in inputs if t.grad is not None)]

    plain, ours = causal_attend([256, 256]), packed_attend(starts)
    for exact, own, torchs in zip(
        through(plain, torch.float32),
        through(ours, torch.bfloat16),
        through(plain, torch.bfloat16),
        strict=True,
    ):
        assert (own - exact).norm() <= 1.5 * (torchs - exact).norm()


def skewed() -> tuple[Router, Tensor]:
    """A router that sends nearly all tokens to two of eight experts, and its scores of 8,192 tokens."""
    router = Router(32, MoEConfig(routed=8, top_k=2, width=32, bias=True))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        router.weight.normal_(0, 0.1, generator=random)
        scores_TE = router.scores(torch.randn(8192, 32, generator=random) + 2)
    load_E = load(router, scores_TE).float()
    assert load_E.max() / load_E.mean() > 3
    return router, scores_TE


def test_quantile_balancing_evens_the_load_at_once() -> None:
    router, scores_TE = skewed()
    assert router.e_score_correction_bias is not None
    seen, unseen = scores_TE[:4096], scores_TE[4096:]
    bias_E = quantile_bias(router, seen)
    for part in (seen, unseen):
        load_E = load(router, part, bias_E).float()
        assert load_E.max() / load_E.mean() < 1.1
    for _ in range(8):
        rebalance(router, seen, quantile_bias(router, seen), "quantile")
    load_E = load(router, unseen).float()
    assert load_E.max() / load_E.mean() < 1.5


def test_bias_steps_even_the_load_in_time() -> None:
    router, scores_TE = skewed()
    bias_E = router.e_score_correction_bias
    assert bias_E is not None
    for _ in range(400):
        rebalance(router, scores_TE[:4096], bias_E, "bias")
    load_E = load(router, scores_TE[4096:]).float()
    assert load_E.max() / load_E.mean() < 1.5
