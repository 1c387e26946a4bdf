"""Progress over several videos."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from starflow.cli.common import say

Item = TypeVar("Item")


def with_progress(items: Sequence[Item], name: Callable[[Item], str]) -> Iterator[Item]:
    """The same items, with their count and the time left: a bar on a terminal, otherwise a line for each.

    Args:
        items: what is made, one after the other.
        name: of an item, for its line.
    """
    from tqdm import tqdm

    on_terminal, start = sys.stderr.isatty(), time.perf_counter()
    with tqdm(total=len(items), unit="video", disable=not on_terminal or len(items) == 1, leave=False) as bar:
        for done, item in enumerate(items):
            if not on_terminal:
                say(f"making {name(item)}{_count(done, len(items), time.perf_counter() - start)}")
            yield item
            bar.update()


def _count(done: int, total: int, seconds: float) -> str:
    """Which of several items comes next, and the time left if it is known, in parentheses."""
    from tqdm import tqdm

    if total == 1:
        return ""
    left = f", about {tqdm.format_interval(seconds / done * (total - done))} left" if done else ""
    return f" ({done + 1} of {total}{left})"
