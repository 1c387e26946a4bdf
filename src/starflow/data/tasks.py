"""The tasks that one model learns, and their batches.

All tasks use the same clips (STARFlow-V, arXiv 2511.20462). A marker before the caption names the task:

    text_to_video    the beginning of a clip
    image            a picture, or the first latent frame of a clip
    extend           a later excerpt of a long clip, as in a rolling window
    video_to_video   [clip | edited clip]
    last             [last frame | clip]

A batch depends only on the seed and its number, so that a resumed run has the same batches.

Legend: `B` batch, `T` latent frames, `K` given latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from starflow.data.latents import CachedClip, LatentCache
from starflow.encoders.text import EXTEND, LAST, VIDEO_TO_VIDEO
from starflow.errors import UsageError

Item = TypeVar("Item")
Task = Literal["text_to_video", "image", "extend", "video_to_video", "last"]

DEFAULT_WEIGHTS: dict[Task, float] = {
    "text_to_video": 0.5,
    "image": 0.1,
    "extend": 0.1,
    "video_to_video": 0.2,
    "last": 0.1,
}
NO_MATERIAL: dict[Task, str] = {
    "text_to_video": "no clip is as long as the model's",
    "extend": "no clip is longer than the model's",
    "video_to_video": "no clip has an edit",
    "last": "no clip is as long as the model's",
}
SHORT_LENGTH = 2  # latent frames: the first, and one that shows motion


@dataclass
class TaskWeights:
    """The relative frequency of each task; None: that of `DEFAULT_WEIGHTS` if there are clips for the task."""

    text_to_video: float | None = None
    image: float | None = None
    extend: float | None = None
    video_to_video: float | None = None
    last: float | None = None


@dataclass(frozen=True)
class Batch:
    """Clips of one task.

    Attributes:
        task: of all clips of the batch.
        latents: clean, float32 `(B, T, D, H, W)`; the first `num_given` frames are given, and have no loss.
        captions: with the task's marker, not yet wrapped; an empty text if dropped.
        indices: of the clips in the source.
        edits: the index of each clip's edit; empty for other tasks than video_to_video.
        num_given: `K`.
        dropped: whether each caption was dropped.
    """

    task: Task
    latents: Tensor
    captions: list[str]
    indices: list[int]
    edits: list[int] = field(default_factory=list)
    num_given: int = 0
    dropped: list[bool] = field(default_factory=list)

    @property
    def is_image(self) -> bool:
        return self.task == "image"


class Mixture:
    """Random batches from a latent cache, each of one task.

    `shares` has the probability of each task for which there are clips.
    """

    def __init__(
        self,
        cache: LatentCache,
        weights: TaskWeights,
        batch_size: int,
        short_clips: float = 0.0,
        caption_dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        """
        Args:
            cache: the clips.
            weights: of the tasks.
            batch_size: `B` of text_to_video; batches of other tasks have about as many tokens.
            short_clips: share of the batches of text_to_video and video_to_video that end after the first generated
                frames, where captions matter most. They have half as many clips more.
            caption_dropout: share of the captions that are dropped, for guidance.
            seed: of the batches.

        Raises:
            UsageError: a task has a weight but no clips, or no task has a weight.
        """
        self.cache, self.length, self.batch_size = cache, cache.num_latent_frames, batch_size
        self.short_clips, self.caption_dropout, self.seed = short_clips, caption_dropout, seed
        self.clips = [clip for clip in cache.clips if clip.num_latent_frames >= self.length > 1]
        self.long_clips = [clip for clip in self.clips if clip.num_latent_frames > self.length]
        self.edits = [(clip, j) for clip in self.clips for j in clip.instructions]
        material: dict[Task, int] = {
            "text_to_video": len(self.clips),
            "image": len(cache.clips),
            "extend": len(self.long_clips),
            "video_to_video": len(self.edits),
            "last": len(self.clips),
        }
        self.shares = task_shares(weights, material)

    def batch(self, number: int) -> Batch:
        """Batch `number`; it is always the same."""
        rng = np.random.default_rng([self.seed, number])
        make: dict[Task, Callable[[np.random.Generator], Batch]] = {
            "text_to_video": self._text_to_video,
            "image": self._image,
            "extend": self._extend,
            "video_to_video": self._video_to_video,
            "last": self._last,
        }
        task = list(self.shares)[rng.choice(len(self.shares), p=list(self.shares.values()))]
        batch = make[task](rng)
        dropped = (rng.random(len(batch.captions)) < self.caption_dropout).tolist()
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        return replace(batch, captions=captions, dropped=dropped)

    def _text_to_video(self, rng: np.random.Generator) -> Batch:
        length, size = self._length_and_size(rng, self.batch_size)
        clips = _draw(rng, self.clips, size)
        return Batch("text_to_video", self._read(clips, length), _captions(rng, clips), _indices(clips))

    def _image(self, rng: np.random.Generator) -> Batch:
        # An image has fewer tokens than a clip, so a batch has more images.
        clips = _draw(rng, self.cache.clips, max(self.batch_size, self.batch_size * self.length // 2))
        captions = [_choice(rng, clip.image_captions) for clip in clips]
        return Batch("image", self._read(clips, 1), captions, _indices(clips))

    def _extend(self, rng: np.random.Generator) -> Batch:
        clips = _draw(rng, self.long_clips, self.batch_size)
        starts = [int(rng.integers(1, clip.num_latent_frames - self.length + 1)) for clip in clips]
        excerpts = [
            self.cache.read(clip.index, "clip", start, self.length) for clip, start in zip(clips, starts, strict=True)
        ]
        return Batch("extend", torch.stack(excerpts), _captions(rng, clips, EXTEND), _indices(clips))

    def _video_to_video(self, rng: np.random.Generator) -> Batch:
        length, size = self._length_and_size(rng, max(1, self.batch_size // 2))
        drawn = _draw(rng, self.edits, size)
        clips, edits = [clip for clip, _ in drawn], [j for _, j in drawn]
        edited = torch.stack([self.cache.read(clip.index, f"edit.{j}", length=length) for clip, j in drawn])
        latents = torch.cat([self._read(clips, self.length), edited], dim=1)
        captions = [VIDEO_TO_VIDEO + clip.instructions[j] for clip, j in drawn]
        return Batch("video_to_video", latents, captions, _indices(clips), edits, num_given=self.length)

    def _last(self, rng: np.random.Generator) -> Batch:
        clips = _draw(rng, self.clips, self.batch_size)
        last = torch.stack([self.cache.read(clip.index, "last") for clip in clips])
        latents = torch.cat([last, self._read(clips, self.length)], dim=1)
        return Batch("last", latents, _captions(rng, clips, LAST), _indices(clips), num_given=1)

    def _length_and_size(self, rng: np.random.Generator, size: int) -> tuple[int, int]:
        """The number of generated latent frames of a batch, and its size, which is larger for short clips."""
        is_short = rng.random() < self.short_clips
        return (min(SHORT_LENGTH, self.length), size * 3 // 2) if is_short else (self.length, size)

    def _read(self, clips: list[CachedClip], length: int) -> Tensor:
        """The first `length` latent frames of clips, `(B, length, D, H, W)`."""
        return torch.stack([self.cache.read(clip.index, "clip", length=length) for clip in clips])


def task_shares(weights: TaskWeights, material: Mapping[Task, int]) -> dict[Task, float]:
    """The probability of each task, from its weight and the number of its clips.

    Raises UsageError if a task has a weight but no clips, or no task has a weight.
    """
    chosen: dict[Task, float] = {}
    for task, number in material.items():
        weight = getattr(weights, task)
        if weight is not None and weight < 0:
            raise UsageError(f"tasks.{task} is {weight}: it must be 0 or more")
        if weight and not number:
            raise UsageError(f"there are no clips for tasks.{task}, as {NO_MATERIAL[task]}: set tasks.{task}=0")
        if number:
            chosen[task] = DEFAULT_WEIGHTS[task] if weight is None else weight
    total = sum(chosen.values())
    if not total:
        raise UsageError("no task has a weight: set one of " + ", ".join(f"tasks.{task}" for task in material))
    return {task: weight / total for task, weight in chosen.items() if weight}


def _draw(rng: np.random.Generator, items: list[Item], size: int) -> list[Item]:
    return [items[index] for index in rng.integers(len(items), size=size)]


def _choice(rng: np.random.Generator, captions: list[str]) -> str:
    return captions[int(rng.integers(len(captions)))]


def _captions(rng: np.random.Generator, clips: list[CachedClip], marker: str = "") -> list[str]:
    return [marker + _choice(rng, clip.captions) for clip in clips]


def _indices(clips: list[CachedClip]) -> list[int]:
    return [clip.index for clip in clips]
