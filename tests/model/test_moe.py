"""Routers and experts against plain loops and against the DeepSeek-V3 block of `transformers`."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import transformers
from torch import Tensor

from mythos.model.attention import causal_attend
from mythos.model.moe import Experts, MoE, expert_matmul, expert_matmul_loop
from mythos.model.transformer import Transformer
from mythos.spec.config import ModelConfig, MoEConfig


def plain_experts(experts: Experts, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
    """One token and one expert at a time."""
    out_TD = torch.zeros_like(x_TD)
    for token in range(len(x_TD)):
        for expert, weight in zip(ids_TA[token].tolist(), weights_TA[token], strict=True):
            gate, up = (experts.gate_up_proj[expert] @ x_TD[token]).chunk(2)
            out_TD[token] += weight * (experts.down_proj[expert] @ (F.silu(gate) * up))
    return out_TD


@pytest.mark.parametrize("width", [24, 20])  # grouped kernel, loop
@pytest.mark.parametrize("chosen", [1, 2, 3])
@pytest.mark.parametrize("tokens", [1, 2, 13])
def test_experts_and_their_gradients_equal_the_plain_loop(width: int, chosen: int, tokens: int) -> None:
    torch.manual_seed(tokens)
    experts = Experts(16, MoEConfig(routed=6, top_k=chosen, width=width))
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    x_TD = torch.randn(tokens, 16, requires_grad=True)
    ids_TA = torch.stack([torch.randperm(6)[:chosen] for _ in range(tokens)])
    weights_TA = torch.rand(tokens, chosen, requires_grad=True)
    upstream_TD = torch.randn(tokens, 16)
    results = []
    for computed in (experts(x_TD, ids_TA, weights_TA), plain_experts(experts, x_TD, ids_TA, weights_TA)):
        of = [x_TD, weights_TA, *experts.parameters()]
        results.append([computed, *torch.autograd.grad(computed, of, upstream_TD)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("runs", [[3, 0, 4, 2], [0, 0, 9, 0], [9, 0, 0, 0], [0, 0, 0, 9]])
def test_grouped_product_and_its_gradients_equal_the_loop(dtype: torch.dtype, runs: list[int]) -> None:
    torch.manual_seed(0)
    ends_E = torch.tensor(runs).cumsum(0).int()
    x_SD, w_EFD = torch.randn(9, 32, dtype=dtype), torch.randn(4, 40, 32, dtype=dtype)
    upstream = torch.randn(9, 40, dtype=dtype)
    results = []
    for product in (expert_matmul, expert_matmul_loop):
        x, w = x_SD.clone().requires_grad_(), w_EFD.clone().requires_grad_()
        y = product(x, w, ends_E)
        y.backward(upstream)
        results.append((y.detach(), x.grad, w.grad))
    for grouped, looped in zip(*results, strict=True):
        torch.testing.assert_close(grouped, looped)


@pytest.mark.parametrize("groups,top_groups", [(1, 1), (4, 2)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_deepseek_v3_block(groups: int, top_groups: int, renormalise: bool) -> None:
    """Sigmoid scores, selection bias, groups, scale and shared experts."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = transformers.DeepseekV3Config(
        hidden_size=32,
        moe_intermediate_size=24,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_shared_experts=2,
        n_group=groups,
        topk_group=top_groups,
        norm_topk_prob=renormalise,
        routed_scaling_factor=2.5,
    )
    torch.manual_seed(groups)
    theirs = DeepseekV3MoE(config).eval()
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            tensor.normal_(0.0, 0.3)  # the bias too: groups with a negative worth must stay comparable
    moe = MoEConfig(
        routed=16,
        top_k=4,
        width=24,
        shared=2,
        score="sigmoid",
        renormalise=renormalise,
        scale=2.5,
        bias=True,
        groups=groups,
        top_groups=top_groups,
    )
    ours = MoE(32, moe)
    ours.load_state_dict(theirs.state_dict())
    x_TD = torch.randn(50, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x_TD), theirs(x_TD[None])[0], atol=1e-5, rtol=1e-5)


def test_selection_bias_moves_the_choice_but_not_the_weights() -> None:
    torch.manual_seed(0)
    block = MoE(16, MoEConfig(routed=8, top_k=2, width=8, score="sigmoid", renormalise=False, bias=True))
    torch.nn.init.normal_(block.gate.weight)
    x_TD = torch.randn(5, 16)
    bias_E = block.gate.e_score_correction_bias
    assert bias_E is not None
    bias_E[3] = 100.0
    ids_TA, weights_TA = block.gate(x_TD)
    assert (ids_TA[:, 0] == 3).all()
    scores_TE = F.linear(x_TD, block.gate.weight).sigmoid()
    torch.testing.assert_close(weights_TA, scores_TE.gather(1, ids_TA))


@pytest.mark.parametrize("moe", [None, MoEConfig(routed=4, top_k=2, width=16, shared=1)])
def test_training_from_fresh_weights_lowers_the_loss(moe: MoEConfig | None) -> None:
    config = ModelConfig(
        vocab=32, layers=2, width=32, heads=2, kv_heads=1, head_dim=16, ffn=48, context=64, moe=moe
    )
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to_empty(device="cpu")
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.arange(32).repeat(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        logits = model(ids[:-1], torch.arange(63), causal_attend([63]))
        loss = F.cross_entropy(logits, ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - torch.tensor(32.0).log().item()) < 0.1, "fresh weights should know nothing"
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
