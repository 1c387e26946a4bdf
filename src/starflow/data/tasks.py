"""The tasks that one model learns, and the batches that teach them.

All tasks are made from the same clips (STARFlow-V, arXiv 2511.20462) and told apart by a marker before the caption:

    text_to_video    the beginning of a clip
    image            a picture, or a clip's first latent frame
    extend           an excerpt of a long clip, not from its beginning, as a rolling window meets it
    video_to_video   [clip | what it becomes by an instruction]
    last             [last frame | clip]

A batch is a function of the seed and its number alone, so that resuming is exact.

Legend: `B` batch, `T` latent frames, `K` given latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from starflow.data.latents import CachedClip, LatentCache
from starflow.errors import UsageError
from starflow.pipeline.inputs import EXTEND, LAST, VIDEO_TO_VIDEO

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
SHORT_LENGTH = 2  # latent frames: the first, and the one in which motions show


@dataclass
class TaskWeights:
    """How often a batch is of each task, in proportion; None: as in `DEFAULT_WEIGHTS` if there are clips for it."""

    text_to_video: float | None = None
    image: float | None = None
    extend: float | None = None
    video_to_video: float | None = None
    last: float | None = None


@dataclass(frozen=True)
class Batch:
    """Clips of one task.

    Attributes:
        task: which.
        latents: clean, float32 `(B, T, D, H, W)`; the first `num_given` frames are what the others are made from.
        captions: with the task's marker, not yet wrapped; empty where it was dropped.
        indices: the clips' numbers in the source.
        edits: which edit of its clip each is; empty if the task is not video_to_video.
        num_given: `K`.
        dropped: whether the caption was dropped.
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
    """Batches of one task each, drawn from a latent cache.

    `shares` says how often each task comes: those of the tasks that there are clips for add up to 1.
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
            batch_size: `B` of text_to_video; the other tasks have about as many tokens in a batch.
            short_clips: share of the batches of text_to_video and video_to_video that end after the first frames that
                are made, and have half as many clips more: captions matter most there.
            caption_dropout: share of the captions that are dropped, for guidance.
            seed: of all that is drawn.

        Raises:
            UsageError: a task has a weight and no clips, or no task is left.
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
        """Batch `number`, the same every time."""
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
        # An image has a fraction of a clip's tokens: take as many more of them.
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
        """How many latent frames are made in a batch, and of how many clips: `size`, or more if they are short."""
        is_short = rng.random() < self.short_clips
        return (min(SHORT_LENGTH, self.length), size * 3 // 2) if is_short else (self.length, size)

    def _read(self, clips: list[CachedClip], length: int) -> Tensor:
        """The first `length` latent frames of clips, `(B, length, D, H, W)`."""
        return torch.stack([self.cache.read(clip.index, "clip", length=length) for clip in clips])


def task_shares(weights: TaskWeights, material: Mapping[Task, int]) -> dict[Task, float]:
    """The share of each task that has one, from its weight and how many clips there are for it.

    Raises UsageError if a task has a weight and no clips, or no task is left.
    """
    chosen: dict[Task, float] = {}
    for task, number in material.items():
        weight = getattr(weights, task)
        if weight is not None and weight < 0:
            raise UsageError(f"tasks.{task} is {weight}: a weight is 0 or more")
        if weight and not number:
            raise UsageError(f"tasks.{task} has nothing to learn from, as {NO_MATERIAL[task]}: set tasks.{task}=0")
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
