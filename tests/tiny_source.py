"""A source of clips that are given as a list, for tests."""

from dataclasses import dataclass

import numpy as np

from starflow.data.clip import Clip


@dataclass(frozen=True)
class ListOfClips:
    """The clips of a list."""

    clips: list[Clip]
    fingerprint: str = "a list"

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]


def noise_clip(
    rng: np.random.Generator, caption: str, num_frames: int = 9, fps: float = 8, height: int = 32, width: int = 32
) -> Clip:
    """A clip of random pixels."""
    video = rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    return Clip(video, fps, [caption], [f"a picture of {caption}"])
