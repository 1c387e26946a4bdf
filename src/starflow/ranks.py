"""Several processes side by side, as torchrun starts them: which part of the work is this one's, and on which device.

Making videos from a list of prompts needs no word between the processes: each makes its own, with the seeds that they
would have in one process, so that the videos do not depend on how many processes there are.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from starflow.errors import UsageError

Item = TypeVar("Item")


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
