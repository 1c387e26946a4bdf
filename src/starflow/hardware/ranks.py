"""Several processes side by side, as torchrun starts them: which part of the work is this one's, and on which device.

Making videos from a list of prompts needs no word between the processes: each makes its own, with the seeds that they
would have in one process, so that the videos do not depend on how many processes there are. One video is made by all of
them together (`joined`, `starflow.hardware.parallel`).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from starflow.errors import StarflowError, UsageError

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

Item = TypeVar("Item")

PATIENCE = timedelta(minutes=10)  # with a process that says nothing: loading a model takes minutes at most


class Rank(NamedTuple):
    """This process among those of the run, and among those of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of_this_process(cls) -> "Rank":
        """What torchrun says in the environment; alone, if it says nothing. Raises UsageError if that is no rank."""
        said = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        if said[0] is None and said[1] is None:
            return cls()
        try:
            rank, size, local_rank = (int(value or "") for value in said)
        except ValueError:
            raise UsageError(
                "RANK, WORLD_SIZE and LOCAL_RANK must be numbers: start the processes by torchrun"
            ) from None
        if not 0 <= rank < size or local_rank < 0:
            raise UsageError(f"rank {rank} of {size} does not exist: start the processes by torchrun")
        return cls(rank, size, local_rank)

    def share(self, items: Iterable[Item]) -> list[tuple[int, Item]]:
        """This process's items, dealt out in turns, with their numbers among all items."""
        return [(index, item) for index, item in enumerate(items) if index % self.size == self.rank]

    def device(self, device: str) -> str:
        """The device of this process: of a kind of which a machine has several, each process has its own."""
        return f"{device}:{self.local_rank}" if device == "cuda" and self.size > 1 else device


@contextmanager
def joined(rank: Rank, device: "torch.device") -> "Iterator[DeviceMesh]":
    """The processes of a run, connected: a mesh of one dimension, over NCCL on GPUs and gloo elsewhere.

    Raises StarflowError, within it too, if another process is lost.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        yield init_device_mesh(device.type, (rank.size,))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise StarflowError("another process of this run has ended, or says nothing: see what it said last") from error
    dist.destroy_process_group()
