"""Where captioned clips come from. A source is indexable and gives the same clip for the same index every time."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from starflow.toyworld.teaching.cells import ground
from starflow.toyworld.world.captions import caption, image_caption
from starflow.toyworld.world.edits import sample_edit
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Split, scene_at
from starflow.toyworld.world.vocabulary import LONG_FRAMES

GRID = (4, 4)  # rows and columns of cells in a frame: those of the latents of toyworld's autoencoder


@dataclass(frozen=True)
class CaptionedClip:
    """A clip, uint8 `(F, height, width, 3)`, with paraphrases of its caption and of its first frame's.

    `cells` int8 `(3, H, W)`: see `starflow.toyworld.teaching.cells.ground`.
    """

    video: NDArray[np.uint8]
    cells: NDArray[np.int8]
    captions: list[str]
    image_captions: list[str]


@dataclass(frozen=True)
class EditedClip:
    """What a clip becomes by an instruction: uint8 `(F, height, width, 3)`, and its `cells`."""

    instruction: str
    video: NDArray[np.uint8]
    cells: NDArray[np.int8]


class ClipSource(Protocol):
    """An indexable, deterministic source of clips, of how they go on, and of edits of them."""

    def clip(self, index: int) -> CaptionedClip: ...

    def long_video(self, index: int) -> NDArray[np.uint8]: ...

    def edit(self, index: int) -> EditedClip: ...


@dataclass(frozen=True)
class Toyworld:
    """Toyworld as a source: clip `index` is scene number `index` of the sequence that `seed` names."""

    seed: int
    split: Split = "train"
    paraphrases: int = 4

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index, purpose])

    def clip(self, index: int) -> CaptionedClip:
        scene, rng = scene_at(self.seed, index, self.split), self._rng(index, 1)
        captions = [caption(scene, rng, self.split) for _ in range(self.paraphrases)]
        image_captions = [image_caption(scene, rng, self.split) for _ in range(self.paraphrases)]
        return CaptionedClip(render(scene), ground(scene, *GRID), captions, image_captions)

    def long_video(self, index: int) -> NDArray[np.uint8]:
        """The clip and how it goes on: uint8 `(LONG_FRAMES, height, width, 3)`."""
        return render(scene_at(self.seed, index, self.split), LONG_FRAMES)

    def edit(self, index: int) -> EditedClip:
        instruction, target = sample_edit(scene_at(self.seed, index, self.split), self._rng(index, 2))
        return EditedClip(instruction, render(target), ground(target, *GRID))
