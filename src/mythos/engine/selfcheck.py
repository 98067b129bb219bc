"""Does this machine's arithmetic keep what `exact` promises? Run by `mythos doctor`, and by the tests.

`exact` needs that a decoding row gets the same bits alone and among others, and that a prompt chunk gets the
same bits each time. Both depend on the kernels that torch picks on this processor, so they are measured.
"""

import torch
from torch import _weight_int8pack_mm  # type: ignore[attr-defined]
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

_BATCHES = (2, 3, 5, 8, 16, 17, 33, 64)


def _same(f, x: torch.Tensor) -> tuple[bool, str]:
    alone = torch.cat([f(x[i : i + 1]) for i in range(len(x))])
    wrong = [b for b in _BATCHES if not torch.equal(f(x[:b].contiguous()), alone[:b])]
    return not wrong, "same bits in every batch" if not wrong else f"other bits in batches of {wrong}"


@torch.inference_mode()
def run() -> list[tuple[str, bool, str]]:
    """(name, ok, detail) of each check; about a second."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(64, 576, generator=random).bfloat16()
    q = torch.randint(-127, 128, (1536, 576), generator=random, dtype=torch.int8)
    scale = (torch.rand(1536, generator=random) / 64).bfloat16()
    weight = torch.ones(576)

    def attention(positions: int) -> tuple[bool, str]:
        """A sequence is attended to by itself; that must give the same bits wherever its pages lie."""
        bias = torch.zeros(1, 1, 1, positions, dtype=torch.bfloat16)
        bias[..., -50:] = float("-inf")
        for row in x:
            q = row.view(1, 3, 3, 64)
            kv = torch.randn(2, 1, 3, positions, 64, generator=random).bfloat16()
            first, again = (
                scaled_dot_product_attention(q, k, v, attn_mask=bias) for k, v in (kv, kv.clone())
            )
            if not torch.equal(first, again):
                return False, "bits vary from run to run"
        return True, "same bits each time"

    checks = [
        ("int8 linear", *_same(lambda rows: _weight_int8pack_mm(rows, q, scale), x)),
        ("norm", *_same(lambda rows: rms_norm(rows.float(), (576,), weight, 1e-5), x)),
        ("silu", *_same(lambda rows: silu(rows), x)),
        ("attention, 256 positions", *attention(256)),
        ("attention, 4,096 positions", *attention(4096)),
    ]
    w = (q.float() * scale[:, None].float()).bfloat16()
    big = torch.randn(256, 576, generator=random).bfloat16()
    first = torch.nn.functional.linear(big, w)
    again = all(torch.equal(first, torch.nn.functional.linear(big.clone(), w)) for _ in range(8))
    checks.append(("prompt chunk", again, "same bits each time" if again else "bits vary from run to run"))
    return checks
