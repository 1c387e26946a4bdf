"""Clips of any size, rate and length, fitted to those that a model is trained on.

Legend: `F` video frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np

from starflow.data.buckets import Bucket, nearest_size
from starflow.data.clip import Clip, ClipSource, clip_identity
from starflow.data.reading import open_clip
from starflow.media.frames import Frames, fit_frames, resample

LONGEST = 5  # times the length of a model's clips: what is kept of a long clip, for continuations
FrameChoice = Literal["head", "uniform", "chunks", "random"]


@dataclass(frozen=True)
class ClipFormat:
    """What clips are fitted to.

    Attributes:
        num_frames: length of the clips that the model makes in one piece.
        fps: frames per second.
        height, width: of the model's clips, in pixels.
        sizes: heights and widths of the buckets; none: that of the model.
        lengths: numbers of frames of the buckets, rising; none: that of the model.
        frames: which frames of a clip are used. `head`: the beginning, and with it up to `LONGEST` times as much for
            continuations. `random`: an excerpt from a random place, always the same one. `chunks`: excerpts one after
            the other; a rest that fills no bucket is not used. `uniform`: as few excerpts as cover the whole clip,
            evenly spaced, so that they overlap a little.
        shots: whether files are cut into shots first, each of which counts as a clip.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    sizes: tuple[tuple[int, int], ...] = ()
    lengths: tuple[int, ...] = ()
    frames: FrameChoice = "head"
    shots: bool = False

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the bucket for a clip of this size."""
        return nearest_size(self.sizes or [(self.height, self.width)], height, width)

    def length_for(self, num_frames: int) -> int | None:
        """The longest bucket that a clip of `num_frames` frames fills; None if it is too short for all."""
        return max((length for length in self.lengths or [self.num_frames] if length <= num_frames), default=None)

    @property
    def longest(self) -> int:
        """The most frames that are kept of a clip."""
        return _longest(max(self.lengths, default=self.num_frames))

    @property
    def buckets(self) -> list[Bucket]:
        """All buckets of videos, and those of pictures."""
        lengths = sorted({1, *(self.lengths or [self.num_frames])})
        return [Bucket(length, *size) for size in self.sizes or [(self.height, self.width)] for length in lengths]


class Excerpt(NamedTuple):
    """A part of a clip: its start in seconds, and the number of its frames at the model's rate, at most."""

    start: float
    num_frames: int


def find_excerpts(source: ClipSource, index: int, to: ClipFormat) -> list[Excerpt]:
    """The parts of clip `index` that are used, in order. Raises StarflowError if it cannot be read."""
    beginning = [Excerpt(0.0, to.longest)]
    if to.num_frames == 1 or (to.frames == "head" and not to.shots):
        return beginning
    with open_clip(source, index, to.fps) as clip:
        if clip.is_image:
            return beginning
        shots = clip.shots() if to.shots else [(0.0, clip.num_frames())]
    seed = crc32(clip_identity(source, index).encode())
    return [excerpt for start, num_frames in shots for excerpt in _excerpts(start, num_frames, to, seed)]


def read_excerpt(source: ClipSource, index: int, excerpt: Excerpt, to: ClipFormat) -> Clip:
    """An excerpt for `fit_clip`, at the size of its bucket. Raises StarflowError if it cannot be read."""
    with open_clip(source, index, to.fps) as clip:
        return clip.read(*excerpt, to.size_for(*clip.size))


def fit_clip(clip: Clip, to: ClipFormat, temporal_factor: int) -> tuple[dict[str, Frames], list[str]]:
    """The videos of a clip that training needs, by name, and why any of them is missing.

    Returns:
        `clip`, a picture or a video of at least as many frames as its bucket; of a video also `last`, the last frame
        of the bucket, as a picture, and `edit.j`, edit number `j`, as long as the bucket. All are
        uint8 `(F, height, width, 3)` with `F` 1 + k·`temporal_factor`. A clip that is too short gives nothing.
    """
    size = to.size_for(*clip.video.shape[1:3])
    if clip.fps == 0 or len(clip.video) == 1 or to.num_frames == 1:
        return {"clip": fit_frames(clip.video[:1], *size)}, []
    video = resample(clip.video, clip.fps, to.fps)
    length = to.length_for(len(video))
    if length is None:
        shortest = min(to.lengths, default=to.num_frames)
        return {}, [f"has {len(video)} frames at {to.fps:g} fps, and the model's clips have {shortest}"]
    longest = min(len(video), _longest(length))
    longest -= (longest - 1) % temporal_factor
    videos = {"clip": fit_frames(video[:longest], *size)}
    videos["last"] = videos["clip"][length - 1 : length]
    reasons = []
    for j, edit in enumerate(clip.edits):
        edited = resample(edit.video, clip.fps, to.fps)[:length]
        if len(edited) < length:
            reasons.append(f"its edit {edit.instruction!r} has only {len(edited)} frames at {to.fps:g} fps")
        else:
            videos[f"edit.{j}"] = fit_frames(edited, *size)
    return videos, reasons


def _longest(num_frames: int) -> int:
    return 1 + LONGEST * (num_frames - 1)


def _excerpts(start: float, num_frames: int, to: ClipFormat, seed: int) -> Iterator[Excerpt]:
    """The excerpts of a stretch of `num_frames` frames. One that is too short is given whole."""
    length = to.length_for(num_frames)
    if length is None:
        yield Excerpt(start, num_frames)
    elif to.frames == "head":
        yield Excerpt(start, min(num_frames, _longest(length)))
    elif to.frames == "chunks":
        first = 0
        while chunk := to.length_for(num_frames - first):
            yield Excerpt(start + first / to.fps, chunk)
            first += chunk
    elif to.frames == "uniform":
        for first in np.linspace(0, num_frames - length, ceil(num_frames / length)).round().astype(int):
            yield Excerpt(start + int(first) / to.fps, length)
    else:
        first = int(np.random.default_rng(seed).integers(num_frames - length + 1))
        yield Excerpt(start + first / to.fps, length)
