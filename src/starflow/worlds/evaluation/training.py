"""The episodes that a model was trained on: what networks learn from, and nearest neighbours.

Legend: `m` training frames, `n` clips, `F` frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from starflow.errors import UsageError
from starflow.media.frames import Frames
from starflow.worlds.episodes import Episode, load_episode
from starflow.worlds.evaluation.clips import GameClips
from starflow.worlds.source import Episodes

MAX_LEARNED = 200  # episodes that networks learn from
CELL = 4  # pixels: distances are those of frames that are averaged over cells
FRAMES_AT_ONCE = 256  # in a matrix of distances


@dataclass(frozen=True)
class Library:
    """All training frames, small, to find the nearest one.

    Attributes:
        files: of the episodes.
        starts: the number of the first frame of each episode, and `m` at the end.
        small: `(m, 768)`, see `shrink`.
    """

    files: Sequence[Path]
    starts: NDArray[np.int64]
    small: NDArray[np.float32]

    @classmethod
    def of(cls, source: Episodes) -> "Library":
        """Read all episodes of a source."""
        small = [shrink(load_episode(file).frames) for file in source.files]
        starts = np.cumsum([0, *(len(each) for each in small)])
        return cls(source.files, starts, np.concatenate(small))

    @cached_property
    def _squares(self) -> NDArray[np.float32]:
        return np.square(self.small).sum(axis=1)

    def distances(self, frames: Frames) -> NDArray[np.float32]:
        """The root-mean-square distance of frames `(F, 64, 64, 3)` to their nearest training frames: `(F,)`.

        The unit is one level of 255.
        """
        pieces = [self._squared(frames[at : at + FRAMES_AT_ONCE]) for at in range(0, len(frames), FRAMES_AT_ONCE)]
        nearest = np.concatenate([each.min(axis=1) for each in pieces])
        return 255 * np.sqrt(np.maximum(nearest, 0) / self.small.shape[1])

    def continuation(self, context: Frames, num_frames: int) -> Frames:
        """What follows the frames of training that are nearest to a context `(F, 64, 64, 3)`: `(num_frames, 64, …)`.

        After the end of the episode, its last frame is repeated. Raises UsageError if no episode is long enough.
        """
        length = len(context)
        diagonals = sliding_window_view(self._squared(context), length, axis=1)  # (F, m - F + 1, F)
        costs = np.einsum("fsf->s", diagonals)
        follows = np.zeros(len(costs), bool)  # whether the context and a further frame are in one episode
        for start, stop in pairwise(self.starts):
            follows[start : max(start, stop - length)] = True
        if not follows.any():
            raise UsageError(f"no training episode has more than {length} frames")
        first = int(np.where(follows, costs, np.inf).argmin()) + length
        number = int(np.searchsorted(self.starts, first, side="right")) - 1
        frames = load_episode(self.files[number]).frames
        places = np.arange(num_frames) + first - self.starts[number]
        return frames[np.minimum(places, len(frames) - 1)]

    def _squared(self, frames: Frames) -> NDArray[np.float32]:
        """Squared distances `(F, m)` of frames to all training frames."""
        small = shrink(frames)
        return np.square(small).sum(axis=1)[:, None] + self._squares - 2 * small @ self.small.T


def shrink(frames: Frames) -> NDArray[np.float32]:
    """Frames `(F, 64, 64, 3)`, averaged over cells: `(F, 768)` in [0, 1]."""
    length, height, width, _ = frames.shape
    cells = frames.reshape(length, height // CELL, CELL, width // CELL, CELL, 3)
    return cells.mean(axis=(2, 4), dtype=np.float32).reshape(length, -1) / 255


def nearest_continuations(library: Library, clips: GameClips, context: int) -> Frames:
    """The frames `(n, F - context, 64, 64, 3)` that follow the nearest context in the training episodes."""
    num_frames = clips.num_frames - context
    return np.stack([library.continuation(frames[:context], num_frames) for frames in clips.frames])


def learned_episodes(source: Episodes) -> list[Episode]:
    """At most `MAX_LEARNED` training episodes, evenly spread."""
    chosen = np.unique(np.linspace(0, len(source) - 1, MAX_LEARNED).round().astype(int))
    return [load_episode(source.files[number]) for number in chosen]
