"""The processes of a training run, which torchrun starts. Without torchrun, there is only one.

Process 0 writes the files of the run and speaks to the user.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from starflow.hardware.ranks import Rank, joined

Value = TypeVar("Value")

TIMEOUT = timedelta(hours=1)  # for another process, which may be making a preview


@contextmanager
def training_processes(device: str) -> Iterator[None]:
    """A context in which the processes of a run are connected, and only process 0 prints to the standard output.

    Raises:
        UsageError: the environment of torchrun is not valid.
        StarflowError: another process stops.
    """
    rank = Rank.of_this_process()
    if rank.size == 1:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(rank.local_rank)
    with joined(rank, torch.device(device), TIMEOUT), open(os.devnull, "w") as nowhere:
        if rank.rank == 0:
            yield
        else:
            with redirect_stdout(nowhere):
                yield


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is process 0."""
    return rank() == 0


def gather(value: Value) -> list[Value]:
    """The values of all processes, in the order of their ranks. All processes must call this together."""
    if num_processes() == 1:
        return [value]
    values: list[Value | None] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def was_restarted() -> bool:
    """Whether torchrun has started this process again after a failure (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
