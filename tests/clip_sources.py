"""Clips for tests: moving noise of any length, in memory or as a folder of files."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from starflow.data.clip import Clip
from starflow.errors import StarflowError
from starflow.media.frames import Frames
from starflow.media.video import write_video


def moving_noise(num_frames: int, height: int = 32, width: int = 32, seed: int = 0) -> Frames:
    """Large blocks of random colours that move to the right."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([np.roll(picture, 2 * frame, axis=1) for frame in range(num_frames)])


@dataclass(frozen=True)
class ClipList:
    """A source of clips in memory; None stands for a clip that cannot be read."""

    clips: Sequence[Clip | None]
    name: str = "a list"
    left_out: Sequence[str] = ()

    @property
    def fingerprint(self) -> str:
        return self.name

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        clip = self.clips[index]
        if clip is None:
            raise StarflowError(f"clip-{index}.mp4 is corrupt")
        return clip


def write_clip(path: Path, caption: str, num_frames: int, height: int, width: int, fps: float, seed: int = 0) -> None:
    """Write a clip, or a picture if `path` has the suffix of one, and its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, moving_noise(num_frames, height, width, seed), fps)
    path.with_suffix(".txt").write_text(caption)


class Sleeper:
    """A reader for tests of worker processes. The first item takes longest."""

    def __init__(self) -> None:
        self.process = os.getpid()

    def work(self, item: int) -> tuple[int, bool]:
        """The item, and whether another process has done the work."""
        time.sleep(0.1 if item == 0 else 0)
        return item, os.getpid() != self.process

    def die(self, item: int) -> None:
        """End the process as the kernel does when memory runs out."""
        os.kill(os.getpid(), signal.SIGKILL)
