"""The work and the device of each of several processes, which torchrun starts.

For a list of prompts, the processes work independently. Each makes the videos of its share, with the seeds that a
single process would use, so the videos do not depend on the number of processes. For a single video, all processes work
together (see `joined` and `starflow.hardware.parallel`).
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

TIMEOUT = timedelta(minutes=10)  # for an answer of another process, which may be loading a model


class Rank(NamedTuple):
    """The rank of this process, the number of processes, and the rank among the processes of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of_this_process(cls) -> "Rank":
        """Read the environment that torchrun sets; without it, this is the only process.

        Raises UsageError if the environment is not valid.
        """
        values = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        if values[0] is None and values[1] is None:
            return cls()
        try:
            rank, size, local_rank = (int(value or "") for value in values)
        except ValueError:
            raise UsageError(
                "RANK, WORLD_SIZE and LOCAL_RANK must be numbers: start the processes with torchrun"
            ) from None
        if not 0 <= rank < size or local_rank < 0:
            raise UsageError(f"there is no rank {rank} of {size} processes: start the processes with torchrun")
        return cls(rank, size, local_rank)

    def share(self, items: Iterable[Item]) -> list[tuple[int, Item]]:
        """Every `size`-th item, beginning with item `rank`, with its index among all items."""
        return [(index, item) for index, item in enumerate(items) if index % self.size == self.rank]

    def device(self, device: str) -> str:
        """The device of this process: with several processes, each has its own GPU."""
        return f"{device}:{self.local_rank}" if device == "cuda" and self.size > 1 else device


@contextmanager
def joined(rank: Rank, device: "torch.device", timeout: timedelta = TIMEOUT) -> "Iterator[DeviceMesh]":
    """A context with a mesh of all processes in one dimension. NCCL connects GPUs, and gloo connects CPUs.

    Raises StarflowError, also from code in the context, if another process stops or does not answer.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    try:
        store, number, size = next(dist.rendezvous("env://", timeout=timeout))
        # After a restart by torchrun, the store still has the addresses of the processes that have stopped.
        store = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timeout, store=store, rank=number, world_size=size)
        yield init_device_mesh(device.type, (rank.size,))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise StarflowError("another process has stopped or does not answer: see its messages") from error
    dist.destroy_process_group()
