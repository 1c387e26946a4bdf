"""A game for tests, as a source of clips: a bright bar moves left, stays or moves right."""

from dataclasses import dataclass

import numpy as np

from starflow.data.clip import Clip
from starflow.flow.actions import ActionSpace


@dataclass(frozen=True)
class TinyGame:
    """Episodes with random actions: 0 moves the bar to the left, 2 to the right."""

    num_clips: int = 4
    num_frames: int = 9
    fps: float = 8

    action_space = ActionSpace(sizes=(3,))

    @property
    def fingerprint(self) -> str:
        return repr(self)

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> Clip:
        actions = np.random.default_rng(index).integers(0, 3, self.num_frames)
        steps = np.where(np.arange(self.num_frames) == 0, 0, 4 * (actions - 1))
        video = np.zeros((self.num_frames, 32, 32, 3), np.uint8)
        for frame, place in zip(video, 8 * index + np.cumsum(steps), strict=True):
            frame[:, np.arange(place, place + 8) % 32] = 255
        return Clip(video, self.fps, ["a bar"], actions=actions[:, None], name=f"episode {index}")
