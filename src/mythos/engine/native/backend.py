"""The native backend: one call of the C++ library for each pass.

Shape letters: T rows of a pass, W rows whose logits are wanted, V vocabulary, D width, R rotated pairs,
H query heads, G kv heads, K head width.

Rows of activations are quantised to int8, a scale for 64 channels, and multiplied with the int8 weights in
whole numbers; keys and values are bf16, everything else float32. A row has the same bits in a chunk, alone
and among others, so chunks, decoding and the checking of drafts are one computation.
"""

import ctypes
from collections.abc import Sequence as Items
from ctypes import c_char_p, c_float, c_int, c_int32, c_void_p
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mythos.engine.backend import Pass, Segment
from mythos.engine.cache import BLOCK, CHUNK, cache_for
from mythos.engine.native.build import Unavailable
from mythos.model.rope import rotations
from mythos.spec.config import ModelConfig

if TYPE_CHECKING:
    from mythos.engine.loader import LoadedTier

ROWS = 64  # of one decoding pass


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
    if config.head_dim % 16 or config.width % 16:
        return "head widths that are not multiples of 16"
    return None


class Native:
    """A served tier in the library's own form, beside a cache that the library writes."""

    name = "native-int8"
    rows = ROWS

    def __init__(
        self, loaded: "LoadedTier", blocks: int, secret: bytes, library: ctypes.CDLL, threads: int
    ) -> None:
        config = loaded.tier.config
        if (part := unsupported(config)) is not None:
            raise Unavailable(f"the native backend does not compute {part}.", "The plain backend serves.")
        self.cache = cache_for(config, blocks, torch.bfloat16, secret)
        self._library, self._config = library, config
        _declare(library)
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
        query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
        rows = query + 2 * key
        self._matrix("embed", -1, -1, tensors, [("embed", config.vocab)])
        if not config.tied:
            self._matrix("head", -1, -1, tensors, [("lm_head", config.vocab)])
        self._vector("norm", -1, tensors["norm.weight"])
        for layer in range(config.layers):
            at = f"layers.{layer}."
            self._vector("input_norm", layer, tensors[at + "input_layernorm.weight"])
            self._vector("post_norm", layer, tensors[at + "post_attention_layernorm.weight"])
            if config.qk_norm:
                for which in ("q_norm", "k_norm"):
                    self._vector(which, layer, tensors[f"{at}self_attn.{which}.weight"])
            parts = [(f"{at}self_attn.{p}_proj", n) for p, n in (("q", query), ("k", key), ("v", key))]
            self._matrix("qkv", layer, -1, tensors, parts, rows)
            self._matrix("o", layer, -1, tensors, [(f"{at}self_attn.o_proj", config.width)])
            routed = config.moe if layer not in config.dense_layers else None
            if routed is None or routed.shared:
                mlp = at + ("mlp" if routed is None else "mlp.shared_experts")
                inner = len(tensors[f"{mlp}.gate_proj.weight"])
                pair = [(f"{mlp}.gate_proj", inner), (f"{mlp}.up_proj", inner)]
                self._matrix("gate_up", layer, -1, tensors, pair)
                self._matrix("down", layer, -1, tensors, [(f"{mlp}.down_proj", config.width)])
            if routed is not None:
                self._vector("router", layer, tensors[at + "mlp.gate.weight"])
                if routed.bias:
                    self._vector("selection", layer, tensors[at + "mlp.gate.e_score_correction_bias"])
                for name in ("gate_up", "down"):
                    q, scale = (tensors[f"{at}mlp.experts.{name}_{part}"] for part in ("proj", "scale"))
                    for expert, (q_NK, scale_N) in enumerate(zip(q, scale, strict=True)):
                        self._put(f"expert_{name}", layer, expert, q_NK, scale_N, None, 0, len(q_NK))

    def _matrix(
        self,
        name: str,
        layer: int,
        expert: int,
        tensors: dict[str, Tensor],
        parts: list[tuple[str, int]],
        rows: int | None = None,
    ) -> None:
        first, rows = 0, rows or sum(count for _, count in parts)
        for part, count in parts:
            q, scale = tensors[f"{part}.weight"], tensors[f"{part}.scale"]
            self._put(name, layer, expert, q, scale, tensors.get(f"{part}.bias"), first, rows)
            first += count

    def _put(
        self,
        name: str,
        layer: int,
        expert: int,
        q_NK: Tensor,
        scale_N: Tensor,
        bias_N: Tensor | None,
        first: int,
        rows: int,
    ) -> None:
        bias_N = None if bias_N is None else bias_N.float().contiguous()
        failed = self._library.mythos_matrix(
            self._model, name.encode(), layer, expert, rows, q_NK.shape[1], first, len(q_NK),
            _pointer(q_NK), _pointer(scale_N.float()), None if bias_N is None else _pointer(bias_N),
        )  # fmt: skip
        if failed:
            raise MemoryError("no memory for the native backend")

    def _vector(self, which: str, layer: int, values: Tensor) -> None:
        values = values.float().contiguous()
        if self._library.mythos_vector(self._model, which.encode(), layer, values.numel(), _pointer(values)):
            raise MemoryError("no memory for the native backend")


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
    library.mythos_matrix.argtypes = [at, c_char_p, c_int, c_int, c_int, c_int, c_int, c_int, at, at, at]
    library.mythos_vector.restype, library.mythos_vector.argtypes = c_int, [at, c_char_p, c_int, c_int, at]
    library.mythos_cache.restype, library.mythos_cache.argtypes = None, [at, c_int, c_int, at]
    library.mythos_run.restype = None
    library.mythos_run.argtypes = [at, c_int, at, at, at, at, at, c_int, at, at, c_int, at, at]
