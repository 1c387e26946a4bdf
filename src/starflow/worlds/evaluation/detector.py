"""Finds monsters in frames.

Legend: `n` clips, `F` frames, `b` frames of a batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from starflow.media.frames import Frames, to_tensor
from starflow.worlds.episodes import Episode
from starflow.worlds.evaluation.networks import convolution, fit

CELL = 2  # pixels: monsters are found in cells of 2×2 pixels
FOUND_AT_ONCE = 256
MONSTER_WEIGHT = 3.0  # of cells with monsters in the loss, because they are rare


class Detector(nn.Module):
    """Frames `(b, 3, 64, 64)` → for each cell, the score of a monster `(b, 32, 32)`."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = convolution(3, 16, stride=2)
        self.coarse = nn.Sequential(convolution(16, 32, stride=2), convolution(32, 32), convolution(32, 32))
        self.both = nn.Sequential(convolution(48, 16), nn.Conv2d(16, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        fine = self.fine(frames)
        coarse = F.interpolate(self.coarse(fine), scale_factor=2)
        return self.both(torch.cat([fine, coarse], dim=1))[:, 0]

    @torch.no_grad()
    def find(self, clips: Frames) -> NDArray[np.bool_]:
        """The cells with monsters `(n, F, 32, 32)` in clips `(n, F, 64, 64, 3)`."""
        frames = to_tensor(clips.reshape(-1, *clips.shape[2:]))
        found = torch.cat([self(batch) > 0 for batch in frames.split(FOUND_AT_ONCE)])
        return found.unflatten(0, clips.shape[:2]).numpy()


def cells(monsters: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The cells `(…, 32, 32)` of which monsters cover at least a half, from the pixels `(…, 64, 64)` of a `View`."""
    *shape, height, width = monsters.shape
    split = monsters.reshape(*shape, height // CELL, CELL, width // CELL, CELL)
    return split.mean(axis=(-3, -1), dtype=np.float32) >= 127.5


def train_detector(episodes: Sequence[Episode]) -> Detector:
    """Train a detector on true frames. The same episodes give the same detector."""
    frames = np.concatenate([episode.frames for episode in episodes])
    truth = torch.from_numpy(cells(np.concatenate([episode.monsters for episode in episodes])))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = Detector()

    def loss(rows: NDArray[np.intp]) -> Tensor:
        scores = detector(to_tensor(frames[rows]))
        weight = torch.tensor(MONSTER_WEIGHT)
        return F.binary_cross_entropy_with_logits(scores, truth[rows].float(), pos_weight=weight)

    fit(detector, loss, len(frames), "a network that finds monsters")
    return detector
