"""Reads from frames what the player did and how the player moved.

Legend: `n` clips, `F` frames, `A` components of an action, `m` training frames, `b` frames of a batch.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from starflow.media.frames import Frames, to_tensor
from starflow.worlds.episodes import Episode
from starflow.worlds.evaluation.networks import convolution, fit
from starflow.worlds.game import ACTION_SPACE

SEEN = 3  # frames: the one that an action led to, and those before it
READ_AT_ONCE = 256


class Reading(NamedTuple):
    """What the player did, for each of some frames.

    Attributes:
        actions: `(…, A)`.
        motion: `(…, 2)`, as in `motion`.
    """

    actions: NDArray[np.integer]
    motion: NDArray[np.float32]

    def at(self, rows: NDArray[Any]) -> "Reading":
        """The reading of some frames, by their numbers or a mask."""
        return Reading(self.actions[rows], self.motion[rows])


def motion(poses: NDArray[np.float32]) -> NDArray[np.float32]:
    """The motion since the frame before, from places and angles `(…, F, 3)`: `(…, F, 2)`, zero for the first frame.

    The first value is the distance to the right in map units, the second is the turn to the left in degrees.
    """
    change = np.diff(poses, axis=-2, prepend=poses[..., :1, :])
    angle = np.deg2rad(poses[..., 2] - change[..., 2])  # before the motion
    to_the_right = change[..., 0] * np.sin(angle) - change[..., 1] * np.cos(angle)
    return np.stack([to_the_right, (change[..., 2] + 180) % 360 - 180], axis=-1).astype(np.float32)


class ActionReader(nn.Module):
    """Reads `SEEN` consecutive frames `(b, SEEN·3, 64, 64)`: scores of the choices, and the motion, in one vector."""

    def __init__(self) -> None:
        super().__init__()
        channels = [3 * SEEN, 32, 48, 64, 96]
        self.layers = nn.Sequential(
            *(convolution(one, two, stride=2) for one, two in pairwise(channels)),
            nn.Flatten(),
            nn.Linear(channels[-1] * 16, 128),
            nn.ReLU(),
            nn.Linear(128, sum(ACTION_SPACE.sizes) + 2),
        )
        self.motion_scale: Tensor
        self.register_buffer("motion_scale", torch.ones(2))

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Scores `(b, size)` of each component of the action, and the motion `(b, 2)` divided by its scale."""
        return list(self.layers(frames).split([*ACTION_SPACE.sizes, 2], dim=1))

    @torch.no_grad()
    def read(self, clips: Frames) -> Reading:
        """Read clips `(n, F, 64, 64, 3)` from frame `SEEN - 1` on."""
        num_clips, num_frames = clips.shape[:2]
        numbers = np.arange(num_clips * num_frames).reshape(num_clips, num_frames)[:, SEEN - 1 :].reshape(-1)
        frames = clips.reshape(-1, *clips.shape[2:])
        pieces = [self(_seen(frames, batch)) for batch in _split(numbers)]
        *scores, moved = (torch.cat(each) for each in zip(*pieces, strict=True))
        shape = (num_clips, num_frames - SEEN + 1, -1)
        return Reading(
            torch.stack([each.argmax(dim=1) for each in scores], dim=1).reshape(shape).numpy(),
            (moved * self.motion_scale).reshape(shape).numpy(),
        )


def train_action_reader(episodes: Sequence[Episode]) -> ActionReader:
    """Train a reader on true frames. The same episodes give the same reader."""
    frames = np.concatenate([episode.frames for episode in episodes])
    actions = torch.from_numpy(np.concatenate([episode.actions for episode in episodes])).long()
    moved = torch.from_numpy(np.concatenate([motion(episode.poses) for episode in episodes]))
    numbers = np.concatenate([np.arange(len(episode.frames)) for episode in episodes])
    usable = np.flatnonzero(numbers >= SEEN - 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = ActionReader()
    reader.motion_scale.copy_(moved[usable].std(dim=0).clamp(min=1e-3))

    def loss(rows: NDArray[np.intp]) -> Tensor:
        chosen = usable[rows]
        *scores, predicted = reader(_seen(frames, chosen))
        errors = [F.cross_entropy(each, actions[chosen, part]) for part, each in enumerate(scores)]
        return torch.stack([*errors, F.smooth_l1_loss(predicted, moved[chosen] / reader.motion_scale)]).sum()

    fit(reader, loss, len(usable), "a network that reads actions")
    return reader


def _seen(frames: Frames, numbers: NDArray[np.intp]) -> Tensor:
    """The frames `(b, SEEN·3, 64, 64)` that a reader sees for the frames with some numbers."""
    return torch.cat([to_tensor(frames[numbers - age]) for age in range(SEEN)], dim=1)


def _split(numbers: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return np.array_split(numbers, max(1, -(-len(numbers) // READ_AT_ONCE)))
