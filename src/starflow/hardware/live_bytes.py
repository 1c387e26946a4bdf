"""Counting the bytes of live tensors while code runs, and their peak.

This also works on the meta device, where code of any size needs almost no time and memory. So the memory of a
computation is known before it runs.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

Item = TypeVar("Item")


class LiveBytes:
    """A context that counts the bytes of the live tensors made in it: `now`, and the peak of each stage in `peaks`.

    On the meta device, values that the code reads are 1 (true), for example whether all numbers are finite.
    """

    def __init__(self) -> None:
        self.now = 0
        self.stage = ""
        self.peaks: dict[str, int] = {}
        self._count = _Count(self)

    @property
    def peak(self) -> int:
        """The peak over all stages."""
        return max(self.peaks.values(), default=0)

    def __enter__(self) -> "LiveBytes":
        self._count.__enter__()
        # Not a `TorchFunctionMode`, which is off in a backward pass, where checkpointed layers run again.
        self._attention = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = _fused_attention
        return self

    def __exit__(self, *exception: Any) -> None:
        F.scaled_dot_product_attention = self._attention
        self._count.__exit__(*exception)

    def during(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items. Tensors made for an item count for `stage`, or for the stage of a nested call."""
        iterator = iter(items)
        while True:
            outer, self.stage = self.stage, stage
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.stage = outer
            yield item

    def add(self, num_bytes: int) -> None:
        self.now += num_bytes
        self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), self.now)


class _Count(TorchDispatchMode):
    """Adds each storage when an operation first returns it, and subtracts it when it is freed."""

    def __init__(self, total: LiveBytes) -> None:
        super().__init__()
        self.total = total
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1
        for tensor in tree_iter((args, kwargs or {})):  # earlier tensors, such as weights, do not count
            self._see(tensor, new=False)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            self._see(tensor, new=True)
        return result

    def _see(self, tensor: Any, *, new: bool) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        num_bytes = storage.nbytes() if new else 0
        self.total.add(num_bytes)
        weakref.finalize(storage, self._forget, key, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self.known.discard(key)
        self.total.add(-num_bytes)


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Attention with the memory of fused kernels: the output, without the attention scores."""
    return _Attention.apply(query, key, value)


class _Attention(torch.autograd.Function):
    """Saves for the backward pass what fused kernels save: queries, keys, values and the output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
