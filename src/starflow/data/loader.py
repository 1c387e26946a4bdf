"""The clips of a training step: a function of the seed and of the clip's position in training alone.

So a resumed run sees the same clips as an uninterrupted one.

Legend: B batch, F video frames.
"""

import logging
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starflow.data.clip import Clip, ClipSource, read_fitted
from starflow.errors import StarflowError
from starflow.media.frames import Frames, fit_frames, resample, to_tensor

logger = logging.getLogger(__name__)


def epoch_indices(length: int, seed: int, start: int, count: int) -> list[int]:
    """Positions `start` to `start + count - 1` of an endless sequence of epochs, each a permutation of `range(length)`.

    The epochs' permutations differ, and follow from `seed`.
    """
    return [
        int(_permutation(length, seed, position // length)[position % length])
        for position in range(start, start + count)
    ]


@lru_cache(maxsize=4)
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
    """

    def __init__(
        self, source: ClipSource, indices: range, *, fps: float, height: int, width: int, seed: int = 0
    ) -> None:
        self.source, self.indices = source, indices
        self.fps, self.height, self.width, self.seed = fps, height, width, seed
        self._left_out: dict[int, int] = {}  # number of frames of each clip that was left out; 0 if it is unreadable

    def excerpts(self, start: int, count: int, num_frames: int) -> Tensor:
        """The clips at the positions `start` to `start + count - 1` of training: (count, num_frames, 3, height, width).

        Of each clip that is longer than `num_frames` an excerpt, which begins at a random frame. A clip that is left
        out is replaced by the next one in the sequence of epochs.

        Raises:
            StarflowError: no clip has `num_frames` frames.
        """
        return torch.stack([self._excerpt(position, num_frames) for position in range(start, start + count)])

    def beginning(self, index: int, num_frames: int) -> Tensor | None:
        """The first frames of the source's clip `index`, at most `num_frames`: (F, 3, height, width).

        None if the clip is left out.
        """
        frames = self._read(index, min_frames=1)
        return None if frames is None else self._to_tensor(frames[:num_frames])

    def _excerpt(self, position: int, num_frames: int) -> Tensor:
        num_clips = len(self.indices)
        for candidate in range(position, position + 2 * num_clips):  # the whole of an epoch is among them
            (index,) = epoch_indices(num_clips, self.seed, candidate, 1)
            frames = self._read(self.indices[index], num_frames)
            if frames is not None:
                rng = np.random.default_rng([self.seed, position, num_frames])
                first = int(rng.integers(len(frames) - num_frames + 1))
                return self._to_tensor(frames[first : first + num_frames])
        rate = f" at {self.fps:g} fps" if self.fps else ""
        raise StarflowError(
            f"none of the {num_clips} clips can be read and has {num_frames} frames{rate}: train on fewer frames or "
            "longer clips"
        )

    def _read(self, index: int, min_frames: int) -> Frames | None:
        """The frames of a clip, resampled but not yet fitted; None if it is left out."""
        if self._left_out.get(index, min_frames) < min_frames:
            return None
        try:
            clip = read_fitted(self.source, index, self.height, self.width, self.fps)
            frames = self._resample(clip)
        except StarflowError as error:
            self._leave_out(index, 0, str(error))
            return None
        if len(frames) < min_frames:
            name = clip.name or f"clip {index}"
            self._leave_out(index, len(frames), f"{name} is too short: {len(frames)} of {min_frames} frames")
            return None
        return frames

    def _leave_out(self, index: int, num_frames: int, reason: str) -> None:
        if index not in self._left_out:
            logger.warning("left out: %s", reason)
        self._left_out[index] = num_frames

    def _resample(self, clip: Clip) -> Frames:
        return resample(clip.video, clip.fps, self.fps) if self.fps and clip.fps else clip.video

    def _to_tensor(self, frames: Frames) -> Tensor:
        return to_tensor(fit_frames(frames, self.height, self.width))
