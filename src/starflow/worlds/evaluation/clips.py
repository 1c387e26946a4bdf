"""Excerpts of held-out episodes: the true frames that rollouts begin with, and the truth that follows.

Legend: `n` clips, `F` frames of a clip, `A` components of an action.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from starflow.errors import UsageError
from starflow.media.frames import Frames
from starflow.worlds.episodes import Episode, load_episode
from starflow.worlds.game import SCENARIOS
from starflow.worlds.source import Episodes

CONTEXT = 8  # true frames that a rollout begins with
HORIZON = 32  # frames of a rollout


@dataclass(frozen=True)
class GameClips:
    """Clips of `F = num_frames` frames, each from frame `starts[i]` of `episodes[i]` on.

    After the end of an episode, a clip repeats the last frame, with actions that do nothing: see `exists`.
    """

    episodes: Sequence[Episode]
    starts: Sequence[int]
    num_frames: int

    def __len__(self) -> int:
        return len(self.episodes)

    @cached_property
    def frames(self) -> Frames:
        """uint8 `(n, F, 64, 64, 3)`."""
        return self._stacked("frames")

    @cached_property
    def actions(self) -> NDArray[np.uint8]:
        """`(n, F, A)`; that of a frame led to it."""
        return self._stacked("actions") * self.exists[..., None]

    @cached_property
    def monsters(self) -> NDArray[np.uint8]:
        """`(n, F, 64, 64)`, as in `View`."""
        return self._stacked("monsters")

    @cached_property
    def poses(self) -> NDArray[np.float32]:
        """`(n, F, 3)`: `x`, `y` and the angle in degrees."""
        return self._stacked("poses")

    @cached_property
    def exists(self) -> NDArray[np.bool_]:
        """Whether the episode has each frame, `(n, F)`."""
        lengths = [len(episode.frames) - start for episode, start in zip(self.episodes, self.starts, strict=True)]
        return np.arange(self.num_frames) < np.array(lengths)[:, None]

    @cached_property
    def scenarios(self) -> NDArray[np.str_]:
        """The scenario of each clip, `(n,)`."""
        return np.array([episode.scenario for episode in self.episodes])

    @cached_property
    def names(self) -> NDArray[np.str_]:
        """The episode of each clip, `(n,)`: clips of one episode depend on each other."""
        return np.array([f"{episode.scenario} {episode.seed}" for episode in self.episodes])

    @property
    def captions(self) -> list[str]:
        """The place of each clip. What happens there is for the model to find out."""
        return [SCENARIOS[episode.scenario] for episode in self.episodes]

    def excerpts(self, starts: Sequence[int], num_frames: int) -> "GameClips":
        """Clips of `num_frames` frames from each of some frames of these clips on, as far as their episodes go."""
        chosen = [
            (episode, first + start)
            for episode, first in zip(self.episodes, self.starts, strict=True)
            for start in starts
            if first + start + num_frames <= len(episode.frames)
        ]
        return GameClips([episode for episode, _ in chosen], [start for _, start in chosen], num_frames)

    def _stacked(self, name: str) -> NDArray:
        pieces = []
        for episode, start in zip(self.episodes, self.starts, strict=True):
            values = getattr(episode, name)
            pieces.append(values[np.minimum(np.arange(start, start + self.num_frames), len(values) - 1)])
        return np.stack(pieces)


def game_clips(source: Episodes, num_clips: int) -> GameClips:
    """At most `num_clips` clips of `CONTEXT + HORIZON` frames, evenly spread over the episodes.

    A clip begins every `CONTEXT + HORIZON` frames of an episode, if at least one frame follows its context.

    Raises UsageError if no episode is long enough.
    """
    num_frames = CONTEXT + HORIZON
    episodes = [load_episode(file) for file in source.files]
    all_clips = [
        (episode, start) for episode in episodes for start in range(0, len(episode.frames) - CONTEXT, num_frames)
    ]
    if not all_clips:
        raise UsageError(f"no episode in {source.path} has more than {CONTEXT} frames")
    chosen = np.unique(np.linspace(0, len(all_clips) - 1, num_clips).round().astype(int))
    clips = [all_clips[number] for number in chosen]
    return GameClips([episode for episode, _ in clips], [start for _, start in clips], num_frames)
