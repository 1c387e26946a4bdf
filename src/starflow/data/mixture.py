"""The task mixture: what a training step sees is a function of the seed and the step alone, so that resuming is exact.

One model learns all tasks from the same latents (STARFlow-V, arXiv 2511.20462), told apart by a marker before the
caption: text-to-video; images, a clip's first latent frame; `(extend)`, a window of a longer clip, anywhere but at its
beginning, as a rolling window meets them; `(v2v)`, source frames then target frames; `(last)`, the last frame in front
of the clip.

Legend: `B` batch, `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from starflow.conditioning import EXTEND, LAST, VIDEO_TO_VIDEO
from starflow.data.latent_cache import LatentCache


@dataclass(frozen=True)
class Batch:
    """Clean latents `(B, T, D, H, W)` and their captions with task markers, empty where dropped, not yet wrapped."""

    latents: Tensor
    captions: list[str]
    is_image: bool


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
    """Batches of one task each, drawn from a latent cache. `batch_size` is that of text-to-video."""

    cache: LatentCache
    weights: TaskWeights
    batch_size: int
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
        return Batch(batch.latents.float(), captions, batch.is_image)

    def _draw(self, rng: np.random.Generator, population: int, size: int) -> list[int]:
        return rng.integers(population, size=size).tolist()

    def _captioned(self, rng: np.random.Generator, indices: list[int], marker: str = "") -> list[str]:
        return [marker + str(rng.choice(self.cache.captions[index])) for index in indices]

    def _text_to_video(self, rng: np.random.Generator) -> Batch:
        indices = self._draw(rng, len(self.cache.clips), self.batch_size)
        return Batch(self.cache.clips[indices], self._captioned(rng, indices), is_image=False)

    def _image(self, rng: np.random.Generator) -> Batch:
        # An image has a fraction of a clip's tokens: take as many more of them.
        indices = self._draw(rng, len(self.cache.clips), self.batch_size * self.cache.clips.shape[1] // 2)
        captions = [str(rng.choice(self.cache.image_captions[index])) for index in indices]
        return Batch(self.cache.clips[indices, :1], captions, is_image=True)

    def _extend(self, rng: np.random.Generator) -> Batch:
        indices = self._draw(rng, len(self.cache.long_clips), self.batch_size)
        length = self.cache.clips.shape[1]
        start = int(rng.integers(1, self.cache.long_clips.shape[1] - length + 1))
        windows = self.cache.long_clips[indices, start : start + length]
        return Batch(windows, self._captioned(rng, indices, EXTEND), is_image=False)

    def _video_to_video(self, rng: np.random.Generator) -> Batch:
        indices = self._draw(rng, len(self.cache.edits), max(1, self.batch_size // 2))
        latents = torch.cat([self.cache.clips[indices], self.cache.edits[indices]], dim=1)
        return Batch(latents, [VIDEO_TO_VIDEO + self.cache.instructions[index] for index in indices], is_image=False)

    def _last(self, rng: np.random.Generator) -> Batch:
        indices = self._draw(rng, len(self.cache.clips), self.batch_size)
        latents = torch.cat([self.cache.last_images[indices], self.cache.clips[indices]], dim=1)
        return Batch(latents, self._captioned(rng, indices, LAST), is_image=False)
