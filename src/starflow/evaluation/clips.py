"""Held-out clips, and the way between the frames of a clip and a video tensor.

Legend: `B` batch, `F` video frames. Frames are uint8 `(B, F, height, width, 3)`, videos `(B, F, 3, height, width)` in
[-1, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starflow.toyworld.world.captions import caption
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import scene_at

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class CaptionedClips:
    """Frames `(n, F, height, width, 3)` and the caption of each clip."""

    frames: Frames
    captions: list[str]


def held_out_clips(seed: int, num_clips: int) -> CaptionedClips:
    """The first clips of toyworld's test split, of one object or two, in combinations that training never shows."""
    scenes = [scene_at(seed, index, "test") for index in range(num_clips)]
    captions = [caption(scene, np.random.default_rng([seed, index, 2]), "test") for index, scene in enumerate(scenes)]
    return CaptionedClips(np.stack([render(scene) for scene in scenes]), captions)


def to_video(frames: Frames) -> Tensor:
    """Frames → video."""
    return torch.from_numpy(frames).movedim(-1, 2).float() / 127.5 - 1


def to_frames(video: Tensor) -> Frames:
    """Video → frames."""
    return ((video.movedim(2, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def batches(total: int, size: int) -> Iterator[slice]:
    """Slices that cut `total` things into batches of at most `size`."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
