"""The clips of a training step: a function of the seed and of the clip's position in training alone.

So a resumed run sees the same clips as an uninterrupted one.

Legend: B batch, F video frames.
"""

import logging
import threading
from concurrent.futures import Future
from functools import lru_cache
from itertools import chain
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starflow.data.clip import Clip, ClipSource, SharedSource
from starflow.data.reading import open_clip
from starflow.data.workers import AHEAD, Workers, result_of, start_workers
from starflow.errors import StarflowError
from starflow.media.frames import to_tensor

logger = logging.getLogger(__name__)


def epoch_indices(length: int, seed: int, start: int, count: int) -> list[int]:
    """Positions `start` to `start + count - 1` of an endless sequence of epochs, each a permutation of `range(length)`.

    The epochs' permutations differ, and follow from `seed`.
    """
    return [
        int(_permutation(length, seed, position // length)[position % length])
        for position in range(start, start + count)
    ]


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(length)


class ClipLoader:
    """Clips of a source as tensors of one size and rate.

    A clip that cannot be read or is too short is left out, and a warning says why, once.

    Args:
        source: where the clips come from.
        indices: those of the source's clips that are used.
        fps: frames per second that clips are resampled to; 0 leaves them as they are. Images stay images.
        height, width: size in pixels that frames are scaled and cropped to.
        seed: of the order of the clips, and of the places of the excerpts in them.
        num_workers: processes that read the next clips while this one does something else; 0: none.
    """

    def __init__(
        self,
        source: ClipSource,
        indices: range,
        *,
        fps: float,
        height: int,
        width: int,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        self.fps, self.indices, self.num_workers = fps, indices, num_workers
        self._reader = _ExcerptReader(source, indices, fps, (height, width), seed)
        self._workers = start_workers(num_workers, self._reader) if num_workers else None
        self._ahead: dict[_Request, Future[_Excerpt]] = {}
        self._lock = threading.Lock()  # micro steps may run in threads
        self._told: set[str] = set()

    def excerpts(self, start: int, count: int, num_frames: int) -> Tensor:
        """The clips at the positions `start` to `start + count - 1` of training: (count, num_frames, 3, height, width).

        Of each clip that is longer than `num_frames` an excerpt, which begins at a random frame. A
        clip that is left out is replaced by the next one in the sequence of epochs.

        Raises:
            StarflowError: no clip has `num_frames` frames.
        """
        return self.marked_excerpts(start, count, num_frames)[0]

    def marked_excerpts(self, start: int, count: int, num_frames: int) -> tuple[Tensor, Tensor | None]:
        """The clips of `excerpts`, and their marks (count, num_frames, 1, height, width) in [0, 1].

        The marks are None if a clip has none.
        """
        if self._workers is None:
            read = [self._reader.excerpt(request) for request in self._batch(start, count, num_frames)]
        else:
            read = [result_of(future) for future in self._ask(self._workers, start, count, num_frames)]
        frames = [self._frames(excerpt, num_frames) for excerpt in read]
        clips = torch.stack([to_tensor(each[..., :3].numpy()) for each in frames])
        if any(each.shape[-1] == 3 for each in frames):
            return clips, None
        return clips, torch.stack([each[:, None, :, :, 3] for each in frames]).float() / 255

    def beginning(self, index: int, num_frames: int) -> Tensor | None:
        """The first frames of the source's clip `index`, at most `num_frames`: (F, 3, height, width).

        None if the clip is left out.
        """
        frames, reasons = self._reader.beginning(index, num_frames)
        self._tell(reasons)
        return None if frames is None else to_tensor(frames[..., :3].numpy())

    def _ask(
        self, workers: "Workers[_ExcerptReader]", start: int, count: int, num_frames: int
    ) -> "list[Future[_Excerpt]]":
        """The excerpts of this batch. The processes are asked for those of the next ones, too."""
        num_batches = 1 + ceil(AHEAD * self.num_workers / count)
        batches = [self._batch(start + number * count, count, num_frames) for number in range(num_batches)]
        with self._lock:
            oldest = start - num_batches * count  # what was not asked for until then is another process's, or past
            for request in list(self._ahead):
                if request.num_frames != num_frames or request.position < oldest:
                    self._ahead.pop(request).cancel()
            for request in chain(*batches):
                if request not in self._ahead:
                    self._ahead[request] = workers.submit(_ExcerptReader.excerpt, request)
            return [self._ahead.pop(request) for request in batches[0]]

    def _batch(self, start: int, count: int, num_frames: int) -> "list[_Request]":
        return [_Request(position, num_frames) for position in range(start, start + count)]

    def _frames(self, excerpt: "_Excerpt", num_frames: int) -> Tensor:
        frames, reasons = excerpt
        self._tell(reasons)
        if frames is None:
            rate = f" at {self.fps:g} fps" if self.fps else ""
            raise StarflowError(
                f"none of the {len(self.indices)} clips can be read and has {num_frames} frames{rate}: train on fewer "
                "frames or longer clips"
            )
        return frames

    def _tell(self, reasons: list[str]) -> None:
        for reason in reasons:
            if reason not in self._told:
                logger.warning("left out: %s", reason)
                self._told.add(reason)


class _Request(NamedTuple):
    """The clip at a position of training, and the number of its frames."""

    position: int
    num_frames: int


class _Excerpt(NamedTuple):
    """Frames, uint8 `(F, height, width, 3)`, or None, and why clips were left out on the way there.

    The marks of a clip that has some are a fourth channel of its frames.
    """

    frames: Tensor | None
    reasons: list[str]


class _ExcerptReader:
    """Reads excerpts, in this process or in others."""

    def __init__(self, source: ClipSource, indices: range, fps: float, size: tuple[int, int], seed: int) -> None:
        self.source, self.indices, self.fps, self.size, self.seed = source, indices, fps, size, seed
        self.parts = _parts(source, indices)
        self.left_out: dict[int, tuple[int, str]] = {}  # number of frames of what was left out, 0 if unreadable; reason

    def excerpt(self, request: _Request) -> _Excerpt:
        """The first clip from a position on that is long enough."""
        position, num_frames = request
        rng = np.random.default_rng([self.seed, position, num_frames])
        reasons: list[str] = []
        for candidate in range(position, position + 2 * len(self.indices)):  # the whole of an epoch is among them
            frames = self._read(self._index(candidate), num_frames, reasons, rng)
            if frames is not None:
                return _Excerpt(frames, reasons)
        return _Excerpt(None, reasons)

    def beginning(self, index: int, num_frames: int) -> _Excerpt:
        """The beginning of a clip, which may be shorter."""
        reasons: list[str] = []
        frames = self._read(index, 1, reasons, max_frames=num_frames)
        return _Excerpt(frames, reasons)

    def _index(self, position: int) -> int:
        if len(set(self.parts.values())) == 1:  # all clips are equally likely
            return self.indices[epoch_indices(len(self.indices), self.seed, position, 1)[0]]
        rng = np.random.default_rng([self.seed, position])
        weights = np.array([weight * len(part) for part, weight in self.parts.items()])
        part = list(self.parts)[rng.choice(len(weights), p=weights / weights.sum())]
        return part[rng.integers(len(part))]

    def _read(
        self,
        index: int,
        min_frames: int,
        reasons: list[str],
        rng: np.random.Generator | None = None,
        max_frames: int | None = None,
    ) -> Tensor | None:
        """`min_frames` frames of a clip from a random place, or `max_frames` from its start; None if it is left out."""
        length, reason = self.left_out.get(index, (min_frames, ""))
        if length < min_frames:
            reasons.append(reason)
            return None
        try:
            with open_clip(self.source, index, self.fps) as clip:
                length = clip.num_frames()
                if length >= min_frames:
                    first = 0 if rng is None else int(rng.integers(length - min_frames + 1))
                    return _channels(clip.read(first / (clip.fps or 1), max_frames or min_frames, self.size))
            reason = f"{clip.name} is too short: {length} of {min_frames} frames"
        except StarflowError as error:
            length, reason = 0, str(error)
        self.left_out[index] = length, reason
        reasons.append(reason)
        return None


def _parts(source: ClipSource, indices: range) -> dict[range, float]:
    """The clips of each share of a source that are among `indices`, and the weight of each of them."""
    if not isinstance(source, SharedSource):
        return {indices: 1.0}
    parts = {
        range(max(share.indices.start, indices.start), min(share.indices.stop, indices.stop)): share.clip_weight(
            len(share.indices)
        )
        for share in source.shares
    }
    return {part: weight for part, weight in parts.items() if part}


def _channels(clip: Clip) -> Tensor:
    video = torch.from_numpy(clip.video)
    return video if clip.marks is None else torch.cat([video, torch.from_numpy(clip.marks)[..., None]], dim=-1)
