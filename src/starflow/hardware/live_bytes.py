"""How many bytes the tensors made by some code take at most: counted as the code runs, on the meta device too.

On the meta device the code runs in no time and no memory, whatever the sizes, so that what a computation will take is
known from the computation itself.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

Item = TypeVar("Item")


class LiveBytes:
    """Counts, within `with`, the bytes of live tensors that were made there: `now`, and the `peaks` of each stage.

    Questions that code asks of values, such as whether all are finite, are answered with yes on the meta device.
    """

    def __init__(self) -> None:
        self.now = 0
        self.stage = ""
        self.peaks: dict[str, int] = {}
        self._modes = (_Count(self), _FusedAttention())

    @property
    def peak(self) -> int:
        """The most bytes there were in any stage."""
        return max(self.peaks.values(), default=0)

    def __enter__(self) -> "LiveBytes":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)

    def during(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, what making them takes being counted for `stage`, but not what the makers within them take."""
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
    """Adds each storage when an operation first returns it, and takes it off when it dies."""

    def __init__(self, total: LiveBytes) -> None:
        super().__init__()
        self.total = total
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1
        for tensor in tree_iter((args, kwargs or {})):  # weights, and what else was there before
            self._meet(tensor, new=False)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            self._meet(tensor, new=True)
        return result

    def _meet(self, tensor: Any, *, new: bool) -> None:
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


class _FusedAttention(TorchFunctionMode):
    """Attention as kernels that never hold the scores do it: its output is all the memory it takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Keeps for the backward pass what such kernels keep: queries, keys, values and the output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _Attention.apply(q, k, v)
