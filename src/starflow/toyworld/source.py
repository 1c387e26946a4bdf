"""Toyworld as a source of clips."""

from dataclasses import dataclass

import numpy as np

from starflow.data.clip import Clip, Edit
from starflow.errors import UsageError
from starflow.toyworld.world.captions import caption, image_caption
from starflow.toyworld.world.edits import sample_edit
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, Split, scene_at
from starflow.toyworld.world.vocabulary import FPS, LONG_FRAMES, NUM_FRAMES


@dataclass(frozen=True)
class Toyworld:
    """Clip `index` is scene number `index` of the endless sequence that `seed` names.

    Args:
        num_clips: how many of them.
        seed, split: which sequence; `test` has combinations and phrases that `train` never has.
        paraphrases: captions of each clip.
        long: share of the clips, the first ones, that go on for `LONG_FRAMES` instead of `NUM_FRAMES`.
        edited: share of the clips, the first ones, that come with an edit.
    """

    num_clips: int
    seed: int = 1
    split: Split = "train"
    paraphrases: int = 4
    long: float = 0.0
    edited: float = 0.0

    def __post_init__(self) -> None:
        if self.split not in ("train", "test"):
            raise UsageError(f"the split of toyworld is train or test, not {self.split!r}")
        if self.num_clips < 1 or self.paraphrases < 1 or not 0 <= self.long <= 1 or not 0 <= self.edited <= 1:
            raise UsageError(f"numbers of clips and paraphrases are at least 1, shares between 0 and 1: {self}")

    @property
    def fingerprint(self) -> str:
        return repr(self)

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> Clip:
        scene, rng = self.scene(index), self._rng(index, 1)
        captions = [caption(scene, rng, self.split) for _ in range(self.paraphrases)]
        image_captions = [image_caption(scene, rng, self.split) for _ in range(self.paraphrases)]
        is_long = index < round(self.long * self.num_clips)
        has_edit = index < round(self.edited * self.num_clips)
        video = render(scene, LONG_FRAMES if is_long else NUM_FRAMES)
        return Clip(video, FPS, captions, image_captions, [self._edit(index)] if has_edit else [])

    def scene(self, index: int) -> Scene:
        """What clip `index` shows."""
        return scene_at(self.seed, index, self.split)

    def edited_scene(self, index: int) -> tuple[str, Scene]:
        """The instruction of clip `index`'s edit, and the scene that it leads to."""
        return sample_edit(self.scene(index), self._rng(index, 2))

    def _edit(self, index: int) -> Edit:
        instruction, target = self.edited_scene(index)
        return Edit(instruction, render(target))

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        # The scenes of the test split are drawn from purpose 1 (`scene_at`), so that other purposes come after it.
        return np.random.default_rng([self.seed, index, purpose + (self.split == "test")])
