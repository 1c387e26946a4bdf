"""Progress over several videos, and over the stages of one."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from starflow.cli.common import say

Item = TypeVar("Item")

INTERVAL = 10  # seconds between two lines about a stage


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


class StageLines:
    """Lines about the stages of a video, off a terminal: one when a stage begins, and one every 10 seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.num_latent_frames = name, 0
        self.is_shown = not sys.stderr.isatty()
        self.stage = ""
        self.next_time = 0.0

    def on_latent_frame(self, pipeline: object, frame: int, *_: object) -> None:
        """The callback of the pipeline for each latent frame that is sampled."""
        self("sampling: latent frame", frame + 1, self.num_latent_frames)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that a stage, such as "sampling latent frame", is at number `done` of `total`."""
        now = time.perf_counter()
        if self.is_shown and (stage != self.stage or now >= self.next_time):
            self.stage, self.next_time = stage, now + INTERVAL
            say(f"{self.name}: {stage} {done} of {total}")


def _count(done: int, total: int, seconds: float) -> str:
    """Which of several items comes next, and the time left if it is known, in parentheses."""
    from tqdm import tqdm

    if total == 1:
        return ""
    left = f", about {tqdm.format_interval(seconds / done * (total - done))} left" if done else ""
    return f" ({done + 1} of {total}{left})"
