"""The native backend: one call of the C++ library for each pass.

Shape letters: T rows of a pass, W rows whose logits are wanted, V vocabulary, D width, R rotated pairs,
H query heads, G kv heads, K head width.

Rows of activations are quantised to int8, a scale for 64 channels, and multiplied with the int8 weights in
whole numbers, and so are queries with keys and attention's weights with values; everything else is float32.
A row has the same bits in a chunk, alone and among others, so chunks, decoding and the checking of drafts are
one computation.
"""

import ctypes
from collections.abc import Sequence as Items
from ctypes import c_char_p, c_float, c_int, c_int32, c_void_p
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mythos.engine.backend import Pass, Segment
from mythos.engine.cache import BLOCK, CHUNK, PagedCache
from mythos.engine.native.build import Unavailable
from mythos.model.quant import EXPERT_PARTS
from mythos.model.rope import rotations
from mythos.spec.config import ModelConfig

if TYPE_CHECKING:
    from mythos.engine.loader import LoadedTier

ROWS = 64  # of one decoding pass
PANEL = 32  # outputs that the library computes together

_Rows = tuple[Tensor, Tensor, Tensor | None]  # int8 (N, K), scale (N), bias (N)


WHOLE = (
    "layers", "width", "heads", "kv_heads", "head_dim", "ffn", "vocab", "tied", "qk_norm", "positions",
    "rows", "threads", "experts", "top_k", "expert_width", "shared_width", "sigmoid", "renormalise",
    "selection_bias",
)  # fmt: skip


class _Sizes(ctypes.Structure):
    """`Sizes` of model.cpp."""

    _fields_ = [*((name, c_int32) for name in WHOLE), ("eps", c_float), ("routed_scale", c_float)]


def _sizes(config: ModelConfig, positions: int, threads: int) -> _Sizes:
    moe = config.moe
    sizes = _Sizes(
        layers=config.layers, width=config.width, heads=config.heads, kv_heads=config.kv_heads,
        head_dim=config.head_dim, ffn=config.ffn if moe is None or config.dense_layers else 0,
        vocab=config.vocab, tied=config.tied, qk_norm=config.qk_norm, positions=positions,
        rows=max(CHUNK, ROWS), threads=threads, eps=config.norm_eps,
    )  # fmt: skip
    if moe is not None:
        sizes.experts, sizes.top_k, sizes.expert_width = moe.routed, moe.top_k, moe.width
        sizes.shared_width, sizes.sigmoid = moe.shared * moe.width, moe.score == "sigmoid"
        sizes.renormalise, sizes.selection_bias, sizes.routed_scale = moe.renormalise, moe.bias, moe.scale
    return sizes


def unsupported(config: ModelConfig) -> str | None:
    """What the library does not compute of such a model, or None."""
    moe = config.moe
    if config.mla is not None:
        return "latent attention"
    if moe is not None and (moe.groups > 1 or moe.latent):
        return "grouped or latent experts"
    widths = [config.width, config.head_dim, config.ffn, *([moe.width] if moe else [])]
    if any(width % 16 for width in widths):
        return "widths that are not multiples of 16"
    return None


class Native:
    """A served tier in the library's own form, beside a cache that the library writes."""

    name = "native-int8"
    rows = ROWS
    torch_threads = False
    whole = True

    def __init__(
        self, loaded: "LoadedTier", blocks: int, secret: bytes, library: ctypes.CDLL, threads: int
    ) -> None:
        config = loaded.tier.config
        if (part := unsupported(config)) is not None:
            raise Unavailable(f"the native backend does not compute {part}.", "The plain backend serves.")
        self._library, self._config = library, config
        _declare(library)
        width = library.mythos_position_bytes(config.head_dim)
        self.cache = PagedCache(config.layers, config.kv_heads, width, blocks, torch.uint8, secret)
        model, positions = loaded.model, blocks * BLOCK
        sizes = _sizes(config, positions, threads)
        cos, sin = rotations(torch.arange(positions), model.frequencies_R, model.rope_scale)
        self._model = library.mythos_new(ctypes.byref(sizes), _pointer(cos), _pointer(sin))
        if not self._model:
            raise MemoryError("no memory for the native backend")
        self._fill(model.state_dict())
        for layer, pages in enumerate(self.cache.kv):
            library.mythos_cache(self._model, layer, blocks, _pointer(pages))

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.mythos_free(self._model)

    def chunk(self, segment: Segment, layers: Items[int] = ()) -> Pass:
        return self._run([segment], layers)

    def decode(self, segments: list[Segment], layers: Items[int] = ()) -> Pass:
        return self._run(segments, layers)

    def _run(self, segments: list[Segment], layers: Items[int]) -> Pass:
        tokens, positions, owners, offsets, tables, wanted = [], [], [], [], [], []
        for number, segment in enumerate(segments):
            count = len(segment.tokens)
            wanted += range(len(tokens) + count - segment.wanted, len(tokens) + count)
            tokens += segment.tokens
            positions += range(segment.start, segment.start + count)
            owners += [number] * count
            offsets.append(len(tables))
            tables += segment.table[: -(-(segment.start + count) // BLOCK)]
        asked = sorted(set(layers))
        logits_WV = torch.empty(len(wanted), self._config.vocab)
        states = torch.empty(len(asked), len(tokens), self._config.width)
        self._library.mythos_run(
            self._model, len(tokens), _ints(tokens), _ints(positions), _ints(owners), _ints(offsets),
            _ints(tables), len(wanted), _ints(wanted), _pointer(logits_WV), len(asked), _ints(asked),
            _pointer(states),
        )  # fmt: skip
        return Pass(logits_WV, dict(zip(asked, states, strict=True)))

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        """Hands every stored tensor over; the library copies it into its own order."""
        config = self._config
        heads = (config.heads + 2 * config.kv_heads) * config.head_dim
        self._matrix("embed", -1, tensors, ["embed"], config.vocab)
        if not config.tied:
            self._matrix("head", -1, tensors, ["lm_head"], config.vocab)
        self._vector("norm", -1, tensors["norm.weight"])
        for layer in range(config.layers):
            at = f"layers.{layer}."
            self._vector("input_norm", layer, tensors[at + "input_layernorm.weight"])
            self._vector("post_norm", layer, tensors[at + "post_attention_layernorm.weight"])
            if config.qk_norm:
                for which in ("q_norm", "k_norm"):
                    self._vector(which, layer, tensors[f"{at}self_attn.{which}.weight"])
            self._matrix("qkv", layer, tensors, [f"{at}self_attn.{p}_proj" for p in "qkv"], heads)
            self._matrix("o", layer, tensors, [f"{at}self_attn.o_proj"], config.width)
            routed = config.moe if layer not in config.dense_layers else None
            if routed is None or routed.shared:
                mlp = at + ("mlp" if routed is None else "mlp.shared_experts")
                self._pair("gate_up", layer, -1, [_part(tensors, f"{mlp}.{p}_proj") for p in ("gate", "up")])
                self._matrix("down", layer, tensors, [f"{mlp}.down_proj"], config.width)
            if routed is not None:
                self._vector("router", layer, tensors[at + "mlp.gate.weight"])
                if routed.bias:
                    self._vector("selection", layer, tensors[at + "mlp.gate.e_score_correction_bias"])
                self._experts(layer, {part: tensors[f"{at}mlp.experts.{part}"] for part in EXPERT_PARTS})

    def _experts(self, layer: int, parts: dict[str, Tensor]) -> None:
        for expert in range(len(parts["down_proj"])):
            q, scale = parts["gate_up_proj"][expert], parts["gate_up_scale"][expert]
            halves = zip(q.chunk(2), scale.chunk(2), (None, None), strict=True)
            self._pair("expert_gate_up", layer, expert, list(halves))
            down = parts["down_proj"][expert], parts["down_scale"][expert], None
            self._put("expert_down", layer, expert, down, len(down[0]))

    def _matrix(
        self, name: str, layer: int, tensors: dict[str, Tensor], parts: list[str], outputs: int
    ) -> None:
        """Projections one behind the other, as one matrix."""
        first = 0
        for part in parts:
            rows = _part(tensors, part)
            self._put(name, layer, -1, rows, outputs, first)
            first += len(rows[0])

    def _pair(self, name: str, layer: int, expert: int, gate_and_up: list[_Rows]) -> None:
        """Gate and up projection as one matrix whose panels take turns."""
        panels = -(-len(gate_and_up[0][0]) // PANEL)
        for which, rows in enumerate(gate_and_up):
            self._put(name, layer, expert, rows, 2 * panels * PANEL, which * PANEL, every=2)

    def _put(
        self, name: str, layer: int, expert: int, rows: _Rows, outputs: int, first: int = 0, every: int = 1
    ) -> None:
        q_NK, scale_N, bias_N = rows
        bias_N = None if bias_N is None else bias_N.float().contiguous()
        failed = self._library.mythos_matrix(
            self._model, name.encode(), layer, expert, outputs, q_NK.shape[1], first, every, len(q_NK),
            _pointer(q_NK), _pointer(scale_N.float()), None if bias_N is None else _pointer(bias_N),
        )  # fmt: skip
        if failed:
            raise MemoryError("no memory for the native backend")

    def _vector(self, which: str, layer: int, values: Tensor) -> None:
        values = values.float().contiguous()
        if self._library.mythos_vector(self._model, which.encode(), layer, values.numel(), _pointer(values)):
            raise MemoryError("no memory for the native backend")


def _part(tensors: dict[str, Tensor], name: str) -> _Rows:
    return tensors[f"{name}.weight"], tensors[f"{name}.scale"], tensors.get(f"{name}.bias")


def _ints(values: list[int]) -> ctypes.Array:
    return (c_int32 * max(1, len(values)))(*values)


def _pointer(tensor: Tensor) -> c_void_p:
    assert tensor.is_contiguous()
    return c_void_p(tensor.data_ptr())


def _declare(library: ctypes.CDLL) -> None:
    at = c_void_p
    library.mythos_new.restype, library.mythos_new.argtypes = at, [at, at, at]
    library.mythos_free.restype, library.mythos_free.argtypes = None, [at]
    library.mythos_matrix.restype = c_int
    library.mythos_matrix.argtypes = [
        at,
        c_char_p,
        c_int,
        c_int,
        c_int,
        c_int,
        c_int,
        c_int,
        c_int,
        at,
        at,
        at,
    ]
    library.mythos_vector.restype, library.mythos_vector.argtypes = c_int, [at, c_char_p, c_int, c_int, at]
    library.mythos_position_bytes.restype, library.mythos_position_bytes.argtypes = c_int, [c_int]
    library.mythos_cache.restype, library.mythos_cache.argtypes = None, [at, c_int, c_int, at]
    library.mythos_run.restype = None
    library.mythos_run.argtypes = [at, c_int, at, at, at, at, at, c_int, at, at, c_int, at, at]
