"""A block of routed experts in training beside that of `transformers`: forward and backward of 4 x 512
tokens.

    python bench/train_moe.py [--rounds 12] [--json]

8 experts of the width of SmolLM2-135M's MLP, 2 per token, bf16 with a float32 router. Peers: Qwen3-MoE's
block with its experts in a loop (`eager`), and with `grouped_mm`. Rounds in turns; the ratios' median is
told.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mythos.model.moe import MoE
from mythos.spec.config import MoEConfig

TOKENS, WIDTH, INNER, EXPERTS, CHOSEN = 2048, 576, 1536, 8, 2


def step_of(block: Callable[[Tensor], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
    random = torch.Generator().manual_seed(0)
    x_TD = torch.randn(TOKENS, WIDTH, generator=random).bfloat16().requires_grad_()
    g_TD = torch.randn(TOKENS, WIDTH, generator=random).bfloat16()

    def step() -> None:
        torch.autograd.grad(block(x_TD), [x_TD, *parameters], g_TD)

    return step


def peer(ours: MoE, implementation: str) -> Callable[[], None]:
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    config = Qwen3MoeConfig(
        hidden_size=WIDTH, moe_intermediate_size=INNER, num_experts=EXPERTS, num_experts_per_tok=CHOSEN,
        norm_topk_prob=True,
    )  # fmt: skip
    config._experts_implementation = implementation
    block = Qwen3MoeSparseMoeBlock(config).bfloat16()
    state = ours.state_dict()
    block.load_state_dict({name: state[name].to(value.dtype) for name, value in block.state_dict().items()})

    def forward(x_TD: Tensor) -> Tensor:
        out = block(x_TD[None])
        return (out[0] if isinstance(out, tuple) else out)[0]

    return step_of(forward, list(block.parameters()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ours = MoE(WIDTH, MoEConfig(routed=EXPERTS, top_k=CHOSEN, width=INNER))
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(1))
    ours.experts.bfloat16()
    compiled = torch.compile(ours, dynamic=False)
    arms = {
        "ours, compiled": step_of(compiled, list(ours.parameters())),
        "ours, eager": step_of(ours, list(ours.parameters())),
        "transformers, eager": peer(ours, "eager"),
        "transformers, grouped_mm": peer(ours, "grouped_mm"),
    }
    for arm in arms.values():
        arm()
        arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            times[name].append(time.perf_counter() - began)
    report = {
        name: {
            "milliseconds": [1e3 * value for value in (min(took), statistics.median(took), max(took))],
            "by_ours": statistics.median(t / o for t, o in zip(took, times["ours, compiled"], strict=True)),
        }
        for name, took in times.items()
    }
    if options.json:
        print(json.dumps(report))
        return
    for name, row in report.items():
        low, middle, high = row["milliseconds"]
        print(f"{name:26} {middle:6.0f} ms ({low:.0f} to {high:.0f})   time / ours {row['by_ours']:.3f}")


if __name__ == "__main__":
    main()
