"""What lies in memory while a program runs, what it sends, what it multiplies: counted by operation.

The same count runs over real tensors and over fake ones. Counted are the bytes of storages that are alive,
each once however many tensors look at it; not what an allocator rounds up or a kernel takes for itself.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True, slots=True)
class Collective:
    """One call. `bytes`: of the gathered tensor, of the one to be scattered, reduced, sent or received.

    `group` is torch's name of it.
    """

    kind: str
    group: str
    bytes: int


# torch's operations, and which argument has the bytes.
_KINDS = {
    "_allgather_base_": ("all-gather", 0),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "allreduce_": ("all-reduce", 0),
    "alltoall_base_": ("all-to-all", 1),
    "send": ("send", 0),
    "recv_": ("receive", 0),
}


class Live(TorchDispatchMode):
    """While it is entered: `now`, `peak` and at the peak `gathered` (weights that FSDP put together), bytes;
    `flops` of matrix products (2 a multiply-add), `collectives` and how often each was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.gathered = self.flops = 0
        self.collectives: Counter[Collective] = Counter()
        self._resized = 0
        self._seen: dict[int, tuple[weakref.ref[Any], int, bool]] = {}

    def __enter__(self) -> "Live":
        self._resize = resize = torch.UntypedStorage.resize_  # not an operation, so no mode sees it

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            found = resize(storage, size)
            self._note(storage, True)
            return found

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *stop: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*stop)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for all the time; nothing is made
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again, in local tensors
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.watch((out,) if isinstance(out, Tensor) else tree_leaves(out))
        if func is torch.ops.fsdp.split_with_sizes_copy.default:
            for tensor in kwargs["out"]:
                self._note(tensor.untyped_storage(), True)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        elif func is torch.ops.aten._grouped_mm.default:
            self.flops += 2 * prod(out.shape) * args[0].shape[-1] if out.dim() == 2 else _summed(args[0], out)
        elif func.namespace == "c10d" and packet.__name__ in _KINDS:
            kind, place = _KINDS[packet.__name__]
            group = next(ProcessGroup.unbox(a) for a in args if isinstance(a, torch.ScriptObject))
            size = sum(tensor.nbytes for tensor in tree_leaves(args[place]))
            self.collectives[Collective(kind, group.group_name, size)] += 1
        return out

    def repeat(self, begun: "tuple[int, Counter[Collective]]", ran: int, times: int) -> None:
        """Counts what was multiplied and sent since `begun`, (flops, collectives) then, as if it had run
        `times` times instead of `ran` times.
        """
        self.flops = begun[0] + _scaled(self.flops - begun[0], ran, times)
        for one, calls in (self.collectives - begun[1]).items():
            self.collectives[one] = begun[1][one] + _scaled(calls, ran, times)

    def watch(self, found: Iterable[Any]) -> None:
        """Counts the storages of these tensors from now on."""
        for tensor in found:
            if isinstance(tensor, Tensor) and not isinstance(tensor, DTensor):
                self._note(tensor.untyped_storage(), False)

    def _note(self, storage: torch.UntypedStorage, resized: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._seen.get(key)
        if known is not None:
            if known[1] == size and known[2] >= resized:
                return
            reference, before, was = known
            resized = resized or was
            self._change(size - before, size * resized - before * was)
        else:

            def gone(_: Any) -> None:
                _, last, was = self._seen.pop(key)
                self._change(-last, -last * was)

            reference = weakref.ref(storage, gone)
            self._change(size, size * resized)
        self._seen[key] = (reference, size, resized)

    def _change(self, size: int, gathered: int) -> None:
        self.now += size
        self._resized += gathered
        if self.now > self.peak:
            self.peak, self.gathered = self.now, self._resized


def _scaled(count: int, ran: int, times: int) -> int:
    assert count % ran == 0, "repetitions differ"
    return count // ran * times


def _summed(x: Tensor, out: Tensor) -> int:
    """The gradient of the experts' matrices: each slot's outer product, (E, F, D) out of (F, S)."""
    return 2 * prod(out.shape[1:]) * x.shape[-1]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of their storages, each once."""
    return sum({s._cdata: s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())
