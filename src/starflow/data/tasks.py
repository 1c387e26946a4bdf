"""The tasks that one model learns, and their batches.

All tasks use the same clips (STARFlow-V, arXiv 2511.20462). A marker before the caption names the task:

    text_to_video    the beginning of a clip
    image            a picture, or the first latent frame of a clip
    extend           a later excerpt of a long clip, as in a rolling window
    video_to_video   [clip | edited clip]
    last             [last frame | clip]

A batch depends only on the seed and its number, so that a resumed run has the same batches.

Legend: `B` batch, `T` latent frames, `K` given latent frames, `D` latent channels, `H W` latent rows and columns, `E`
action features.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from starflow.data.buckets import Bucket, balanced_batch_size
from starflow.data.latents import CachedClip, LatentCache
from starflow.encoders.text import EXTEND, LAST, VIDEO_TO_VIDEO
from starflow.errors import UsageError

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
MARKERS: dict[Task, str] = {"extend": EXTEND, "last": LAST}
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
        bucket: of all clips of the batch; it has one frame for pictures.
        latents: clean, float32 `(B, T, D, H, W)`; the first `num_given` frames are given, and have no loss.
        captions: with the task's marker, not yet wrapped; an empty text if dropped.
        indices: of the clips in the source.
        edits: the index of each clip's edit; empty for other tasks than video_to_video.
        num_given: `K`.
        dropped: whether each caption was dropped.
        actions: features of each latent frame's action, `(B, T, E)`, zero where it is unknown or dropped; None if no
            clip of the source has actions.
    """

    task: Task
    bucket: Bucket
    latents: Tensor
    captions: list[str]
    indices: list[int]
    edits: list[int] = field(default_factory=list)
    num_given: int = 0
    dropped: list[bool] = field(default_factory=list)
    actions: Tensor | None = None

    @property
    def is_image(self) -> bool:
        return self.task == "image"


class Drawable:
    """What can be drawn for a task from a bucket: clips of a cache, or edits of them."""

    def __init__(self) -> None:
        self.clips, self.edits, self.weights = array("I"), array("H"), array("d")

    def add(self, number: int, edit: int, weight: float) -> None:
        """Add clip `number` of the cache."""
        self.clips.append(number)
        self.edits.append(edit)
        self.weights.append(weight)


class Material:
    """Clips of one bucket for a task. Each takes 6 bytes, and 8 more if some are more likely than others.

    Attributes:
        weight: the sum of the clips' weights.
    """

    def __init__(self, clips: Sequence[CachedClip], drawable: Drawable) -> None:
        """`clips` are those of the cache."""
        self._clips, self._numbers, self._edits = clips, drawable.clips, drawable.edits
        weights = np.array(drawable.weights)
        cumulative = np.cumsum(weights)
        self.weight = float(cumulative[-1])
        is_uniform = bool((weights == weights[0]).all())
        self._cumulative = None if is_uniform else cumulative / cumulative[-1]

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[CachedClip, int]]:
        """All clips and the numbers of their edits, which are 0 in other tasks than video_to_video."""
        return map(self._drawn, range(len(self)))

    def draw(self, rng: np.random.Generator, size: int) -> list[tuple[CachedClip, int]]:
        """Clips and numbers of edits, with replacement."""
        if self._cumulative is None:
            chosen = rng.integers(len(self), size=size)
        else:
            chosen = self._cumulative.searchsorted(rng.random(size), side="right")
        return [self._drawn(place) for place in chosen]

    def _drawn(self, place: int) -> tuple[CachedClip, int]:
        return self._clips[self._numbers[place]], self._edits[place]


class Mixture:
    """Random batches from a latent cache, each of one task and one bucket.

    Attributes:
        material: the clips of each task, by bucket.
        shares: the probability of each task for which there are clips.
    """

    def __init__(
        self,
        cache: LatentCache,
        weights: TaskWeights,
        batch_size: int,
        short_clips: float = 0.0,
        caption_dropout: float = 0.1,
        seed: int = 0,
        action_dropout: float = 0.1,
    ) -> None:
        """
        Args:
            cache: the clips.
            weights: of the tasks.
            batch_size: `B` of text_to_video in the model's bucket; other batches have about as many tokens.
            short_clips: share of the batches of text_to_video and video_to_video that end after the first generated
                frames, where captions matter most. They have half as many clips more.
            caption_dropout: share of the captions that are dropped, for guidance.
            seed: of the batches.
            action_dropout: share of the clips whose actions are dropped, for guidance: half of them with the caption,
                if both shares are equal.

        Raises:
            UsageError: a task has a weight but no clips, or no task has a weight.
        """
        self.cache, self.length, self.batch_size = cache, cache.num_latent_frames, batch_size
        self.short_clips, self.seed = short_clips, seed
        self.caption_dropout, self.action_dropout = caption_dropout, action_dropout
        self.material = self._find_material()
        self.shares = task_shares(weights, {task: _number(buckets) for task, buckets in self.material.items()})

    def _find_material(self) -> dict[Task, dict[Bucket, Material]]:
        drawable: dict[Task, dict[Bucket, Drawable]] = {task: defaultdict(Drawable) for task in DEFAULT_WEIGHTS}
        for number, clip in enumerate(self.cache.clips):
            for task, bucket, edit in self._uses(clip):
                drawable[task][bucket].add(number, edit, clip.weight)
        return {
            task: {bucket: Material(self.cache.clips, each) for bucket, each in sorted(buckets.items())}
            for task, buckets in drawable.items()
        }

    def _uses(self, clip: CachedClip) -> Iterator[tuple[Task, Bucket, int]]:
        """The tasks that a clip is used for, with the bucket and the number of the edit."""
        yield "image", clip.bucket._replace(num_frames=1), 0
        if clip.bucket.num_frames == 1 or self.length == 1:
            return
        yield "text_to_video", clip.bucket, 0
        yield "last", clip.bucket, 0
        if self._is_long(clip):
            yield "extend", clip.bucket, 0
        for edit in clip.instructions:
            yield "video_to_video", clip.bucket, edit

    def batch(self, number: int) -> Batch:
        """Batch number `number`, which is always the same."""
        rng = np.random.default_rng([self.seed, number])
        make: dict[Task, Callable[[np.random.Generator, Bucket], Batch]] = {
            "text_to_video": self._text_to_video,
            "image": self._image,
            "extend": self._extend,
            "video_to_video": self._video_to_video,
            "last": self._last,
        }
        task = list(self.shares)[rng.choice(len(self.shares), p=list(self.shares.values()))]
        bucket = self._draw_bucket(rng, task)
        batch = make[task](rng, bucket)
        return self._dropped(batch, rng.random(len(batch.captions)))

    def captions(self) -> Iterator[tuple[Bucket, list[str]]]:
        """All captions that batches of a bucket can have, with their markers. A bucket of one frame is of pictures."""
        for task in self.shares:
            for bucket, material in self.material[task].items():
                yield bucket, [""]  # dropped
                for clip, edit in material:
                    yield bucket, marked_captions(task, clip, edit)

    def _actions(self, clips: list[CachedClip], length: int, starts: Sequence[int] | None = None) -> Tensor | None:
        """Features `(B, length, E)` from a frame of each clip on; zero for clips without actions."""
        if self.cache.action_space is None:
            return None
        unknown = torch.zeros(length, self.cache.action_space.num_features)
        return torch.stack(
            [
                self.cache.read(clip, "actions", start, length) if clip.has_actions else unknown
                for clip, start in zip(clips, starts or [0] * len(clips), strict=True)
            ]
        )

    def _dropped(self, batch: Batch, chance: NDArray[np.float64]) -> Batch:
        """A batch without some captions and actions. `chance` has a number from 0 to 1 for each clip."""
        dropped = (chance < self.caption_dropout).tolist()
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        batch = replace(batch, captions=captions, dropped=dropped)
        if self.cache.action_space is None:
            return batch
        actions = batch.actions
        if actions is None:
            actions = torch.zeros(*batch.latents.shape[:2], self.cache.action_space.num_features)
        first = self.caption_dropout / 2
        is_kept = torch.from_numpy((chance < first) | (chance >= first + self.action_dropout))
        return replace(batch, actions=actions * is_kept[:, None, None])

    def size_of_batch(self, task: Task, bucket: Bucket) -> int:
        """The number of clips of a batch. Batches of all buckets have about as many tokens."""
        tokens, model_tokens = prod(self.cache.grid(bucket)), prod(self.cache.grid(self.cache.bucket))
        if task == "image":  # an image has fewer tokens than a clip, so a batch has more images
            size = max(self.batch_size, self.batch_size * self.length // 2)
            return balanced_batch_size(size, tokens, model_tokens // self.length)
        size = max(1, self.batch_size // 2) if task == "video_to_video" else self.batch_size
        return balanced_batch_size(size, tokens, model_tokens)

    def small_buckets(self) -> list[str]:
        """A line for each bucket of a task that has fewer clips than a batch, in which clips then repeat."""
        return [
            f"{task}, {bucket.name}: has {len(material)} of the {size} clips of a batch, in which clips repeat"
            for task in self.shares
            for bucket, material in self.material[task].items()
            if len(material) < (size := self.size_of_batch(task, bucket))
        ]

    def _draw_bucket(self, rng: np.random.Generator, task: Task) -> Bucket:
        """A bucket, in proportion to the number of its batches: all clips are equally frequent, but for weights."""
        buckets = list(self.material[task])
        if len(buckets) == 1:
            return buckets[0]
        numbers = [
            material.weight / self.size_of_batch(task, bucket) for bucket, material in self.material[task].items()
        ]
        return buckets[rng.choice(len(buckets), p=np.array(numbers) / sum(numbers))]

    def _draw(self, rng: np.random.Generator, task: Task, bucket: Bucket, size: int) -> list[CachedClip]:
        return [clip for clip, _ in self.material[task][bucket].draw(rng, size)]

    def _text_to_video(self, rng: np.random.Generator, bucket: Bucket) -> Batch:
        length, size = self._length_and_size(rng, "text_to_video", bucket)
        clips = self._draw(rng, "text_to_video", bucket, size)
        captions, actions = _captions(rng, "text_to_video", clips), self._actions(clips, length)
        return Batch("text_to_video", bucket, self._read(clips, length), captions, _indices(clips), actions=actions)

    def _image(self, rng: np.random.Generator, bucket: Bucket) -> Batch:
        clips = self._draw(rng, "image", bucket, self.size_of_batch("image", bucket))
        return Batch("image", bucket, self._read(clips, 1), _captions(rng, "image", clips), _indices(clips))

    def _extend(self, rng: np.random.Generator, bucket: Bucket) -> Batch:
        clips = self._draw(rng, "extend", bucket, self.size_of_batch("extend", bucket))
        length = self._length(bucket)
        starts = [int(rng.integers(1, clip.num_latent_frames - length + 1)) for clip in clips]
        excerpts = [self.cache.read(clip, "clip", start, length) for clip, start in zip(clips, starts, strict=True)]
        captions, actions = _captions(rng, "extend", clips), self._actions(clips, length, starts)
        return Batch("extend", bucket, torch.stack(excerpts), captions, _indices(clips), actions=actions)

    def _video_to_video(self, rng: np.random.Generator, bucket: Bucket) -> Batch:
        length, size = self._length_and_size(rng, "video_to_video", bucket)
        drawn = self.material["video_to_video"][bucket].draw(rng, size)
        clips, edits = [clip for clip, _ in drawn], [j for _, j in drawn]
        edited = torch.stack([self.cache.read(clip, f"edit.{j}", length=length) for clip, j in drawn])
        num_given = self._length(bucket)
        latents = torch.cat([self._read(clips, num_given), edited], dim=1)
        captions = [caption for clip, j in drawn for caption in marked_captions("video_to_video", clip, j)]
        return Batch("video_to_video", bucket, latents, captions, _indices(clips), edits, num_given=num_given)

    def _last(self, rng: np.random.Generator, bucket: Bucket) -> Batch:
        clips = self._draw(rng, "last", bucket, self.size_of_batch("last", bucket))
        last = torch.stack([self.cache.read(clip, "last") for clip in clips])
        length = self._length(bucket)
        latents, actions = torch.cat([last, self._read(clips, length)], dim=1), self._actions(clips, length)
        if actions is not None:
            actions = F.pad(actions, (0, 0, 1, 0))  # the last frame, which is given, has none
        captions = _captions(rng, "last", clips)
        return Batch("last", bucket, latents, captions, _indices(clips), num_given=1, actions=actions)

    def _length(self, bucket: Bucket) -> int:
        """The latent frames of a bucket."""
        return self.cache.grid(bucket)[0]

    def _is_long(self, clip: CachedClip) -> bool:
        return clip.num_latent_frames > self._length(clip.bucket)

    def _length_and_size(self, rng: np.random.Generator, task: Task, bucket: Bucket) -> tuple[int, int]:
        """The number of generated latent frames of a batch, and its size, which is larger for short clips."""
        length, size = self._length(bucket), self.size_of_batch(task, bucket)
        is_short = rng.random() < self.short_clips
        return (min(SHORT_LENGTH, length), size * 3 // 2) if is_short else (length, size)

    def _read(self, clips: list[CachedClip], length: int) -> Tensor:
        """The first `length` latent frames of clips, `(B, length, D, H, W)`."""
        return torch.stack([self.cache.read(clip, "clip", length=length) for clip in clips])


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


def _number(buckets: Mapping[Bucket, Material]) -> int:
    return sum(len(material) for material in buckets.values())


def marked_captions(task: Task, clip: CachedClip, edit: int = 0) -> list[str]:
    """The captions that a clip can have in a task, with the task's marker. `edit` is the number of its edit."""
    if task == "video_to_video":
        return [VIDEO_TO_VIDEO + clip.instructions[edit]]
    captions = clip.image_captions if task == "image" else clip.captions
    return [MARKERS.get(task, "") + caption for caption in captions]


def _captions(rng: np.random.Generator, task: Task, clips: list[CachedClip]) -> list[str]:
    choices = [marked_captions(task, clip) for clip in clips]
    return [captions[int(rng.integers(len(captions)))] for captions in choices]


def _indices(clips: list[CachedClip]) -> list[int]:
    return [clip.index for clip in clips]
