"""The task mixture: what a training step sees is a function of the seed and the step alone, so that resuming is exact.

One model learns all tasks from the same latents (STARFlow-V, arXiv 2511.20462), told apart by a marker before the
caption: text-to-video; images, a clip's first latent frame; `(extend)`, a window of a longer clip, anywhere but at its
beginning, as a rolling window meets them; `(v2v)`, source frames then target frames; `(last)`, the last frame in front
of the clip.

Legend: `B` batch, `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from starflow.data.latents import LatentCache
from starflow.pipeline.inputs import EXTEND, LAST, VIDEO_TO_VIDEO
from starflow.toyworld.teaching.cells import ATTRIBUTES, NOTHING

SHORT_LENGTH = 2  # latent frames: the first, and the one in which motions show


@dataclass(frozen=True)
class Batch:
    """Clean latents `(B, T, D, H, W)` and their captions with task markers, not yet wrapped; "" where dropped.

    The first `num_given` latent frames are what the others are made from. `cells` int8 `(B, 3, H, W)` say what is seen
    where in the first frame after them, as far as the caption tells.
    """

    latents: Tensor
    captions: list[str]
    cells: Tensor
    num_given: int = 0
    is_image: bool = False


@dataclass
class TaskWeights:
    """How often a step is of each task, in proportion."""

    text_to_video: float = 0.5
    image: float = 0.1
    extend: float = 0.1
    video_to_video: float = 0.2
    last: float = 0.1


@dataclass(frozen=True)
class Mixture:
    """Batches of one task each, drawn from a latent cache. `batch_size` is that of text-to-video.

    `short_clips` of the batches of text-to-video and video-to-video end after the first frames that are made, and have
    half as many clips more: captions decide there, and the rest of a clip follows from its beginning.
    """

    cache: LatentCache
    weights: TaskWeights
    batch_size: int
    short_clips: float
    caption_dropout: float
    seed: int

    def batch(self, step: int) -> Batch:
        """Batch number `step`, the same every time."""
        rng = np.random.default_rng([self.seed, step])
        tasks = {
            self._text_to_video: self.weights.text_to_video,
            self._image: self.weights.image,
            self._extend: self.weights.extend,
            self._video_to_video: self.weights.video_to_video,
            self._last: self.weights.last,
        }
        share = np.array(list(tasks.values())) / sum(tasks.values())
        task = list(tasks)[rng.choice(len(tasks), p=share)]
        batch = task(rng)
        dropped = rng.random(len(batch.captions)) < self.caption_dropout
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        cells = batch.cells.masked_fill(torch.from_numpy(dropped).view(-1, 1, 1, 1), NOTHING)
        return replace(batch, latents=batch.latents.float(), captions=captions, cells=cells)

    def _draw(self, rng: np.random.Generator, population: int, size: int) -> list[int]:
        return rng.integers(population, size=size).tolist()

    def _captioned(self, rng: np.random.Generator, indices: list[int], marker: str = "") -> list[str]:
        return [marker + _choice(rng, self.cache.captions[index]) for index in indices]

    def _length_and_size(self, rng: np.random.Generator, size: int) -> tuple[int, int]:
        """How many latent frames are made in a batch, and of how many clips: `size`, or more if they are short."""
        is_short = rng.random() < self.short_clips
        return (SHORT_LENGTH, size * 3 // 2) if is_short else (self.cache.clips.shape[1], size)

    def _text_to_video(self, rng: np.random.Generator) -> Batch:
        length, size = self._length_and_size(rng, self.batch_size)
        indices = self._draw(rng, len(self.cache.clips), size)
        clips = self.cache.clips[indices, :length]
        return Batch(clips, self._captioned(rng, indices), self.cache.clip_cells[indices])

    def _image(self, rng: np.random.Generator) -> Batch:
        # An image has a fraction of a clip's tokens: take as many more of them.
        indices = self._draw(rng, len(self.cache.clips), self.batch_size * self.cache.clips.shape[1] // 2)
        captions = [_choice(rng, self.cache.image_captions[index]) for index in indices]
        cells = self.cache.clip_cells[indices].clone()
        cells[:, list(ATTRIBUTES).index("motion")] = NOTHING
        return Batch(self.cache.clips[indices, :1], captions, cells, is_image=True)

    def _extend(self, rng: np.random.Generator) -> Batch:
        indices = self._draw(rng, len(self.cache.long_clips), self.batch_size)
        length = self.cache.clips.shape[1]
        start = int(rng.integers(1, self.cache.long_clips.shape[1] - length + 1))
        windows = self.cache.long_clips[indices, start : start + length]
        cells = torch.full_like(self.cache.clip_cells[indices], NOTHING)  # of another frame than the first
        return Batch(windows, self._captioned(rng, indices, EXTEND), cells)

    def _video_to_video(self, rng: np.random.Generator) -> Batch:
        length, size = self._length_and_size(rng, max(1, self.batch_size // 2))
        indices = self._draw(rng, len(self.cache.edits), size)
        latents = torch.cat([self.cache.clips[indices], self.cache.edits[indices, :length]], dim=1)
        captions = [VIDEO_TO_VIDEO + self.cache.instructions[index] for index in indices]
        return Batch(latents, captions, self.cache.edit_cells[indices], num_given=self.cache.clips.shape[1])

    def _last(self, rng: np.random.Generator) -> Batch:
        indices = self._draw(rng, len(self.cache.clips), self.batch_size)
        latents = torch.cat([self.cache.last_images[indices], self.cache.clips[indices]], dim=1)
        return Batch(latents, self._captioned(rng, indices, LAST), self.cache.clip_cells[indices], num_given=1)


def _choice(rng: np.random.Generator, captions: list[str]) -> str:
    return captions[int(rng.integers(len(captions)))]
