import logging
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from clip_sources import ClipList, moving_noise
from starflow.data.clip import Clip
from starflow.data.loader import ClipLoader, epoch_indices
from starflow.errors import StarflowError
from starflow.media.frames import to_frames

FPS = 8.0


@dataclass
class Counting:
    """Clips whose frames are filled with 10 times the clip's index plus the frame's number; length -1: unreadable."""

    lengths: list[int]
    fps: float = FPS
    size: tuple[int, int] = (4, 6)
    reads: list[int] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return repr(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Clip:
        self.reads.append(index)
        length = self.lengths[index]
        if length < 0:
            raise StarflowError(f"file {index} is corrupt")
        values = 10 * index + np.arange(length, dtype=np.uint8)
        video = np.broadcast_to(values[:, None, None, None], (length, *self.size, 3)).copy()
        return Clip(video, self.fps, ["a clip"], name=f"clips/{index}.mp4")


def loader(
    source: Counting, *, fps: float = 0, height: int = 4, width: int = 6, seed: int = 0, **more: int
) -> ClipLoader:
    return ClipLoader(source, range(len(source)), fps=fps, height=height, width=width, seed=seed, **more)


def values(video: torch.Tensor) -> list[list[int]]:
    """The value of each frame of (B, F, 3, height, width)."""
    frames = to_frames(video)
    assert (frames == frames[:, :, :1, :1, :1]).all()
    return frames[:, :, 0, 0, 0].tolist()


def test_epochs_are_permutations_that_differ_and_follow_from_the_seed():
    whole = epoch_indices(7, seed=3, start=0, count=21)
    epochs = [whole[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epoch_indices(7, seed=3, start=5, count=9) == whole[5:14]
    assert epoch_indices(7, seed=4, start=0, count=21) != whole
    assert epoch_indices(1, seed=0, start=2, count=3) == [0, 0, 0]


def test_excerpts_follow_from_position_and_seed_and_differ_between_epochs():
    source = Counting([10] * 5)
    together = loader(source).excerpts(0, 100, 3)
    assert together.shape == (100, 3, 3, 4, 6)
    for position in (0, 7, 99):
        torch.testing.assert_close(loader(source).excerpts(position, 1, 3)[0], together[position], rtol=0, atol=0)
    clips = values(together)
    assert [clip[0] // 10 for clip in clips] == epoch_indices(5, 0, 0, 100)
    assert all(clip == [clip[0], clip[0] + 1, clip[0] + 2] for clip in clips)
    assert {clip[0] % 10 for clip in clips} == set(range(8))
    assert values(loader(source, seed=1).excerpts(0, 100, 3)) != clips


def test_clips_are_fitted_in_size_and_resampled_but_images_are_not():
    source = Counting([8, 8], size=(9, 20))
    fitted = loader(source, fps=FPS / 2, height=32, width=16)
    (clip,) = fitted.excerpts(0, 1, 4)
    assert clip.shape == (4, 3, 32, 16)
    assert np.diff(values(clip[None])[0]).tolist() == [2, 2, 2]
    images = Counting([1, 1], fps=0)
    assert loader(images, fps=24).excerpts(0, 2, 1).shape == (2, 1, 3, 4, 6)


def test_the_beginning_of_a_clip_is_at_most_as_long_as_asked():
    clips = loader(Counting([3, 9, -1]))
    assert values(clips.beginning(1, 4)[None]) == [[10, 11, 12, 13]]
    assert values(clips.beginning(0, 4)[None]) == [[0, 1, 2]]
    assert clips.beginning(2, 4) is None


def test_clips_that_cannot_be_used_are_replaced_and_named_once(caplog: pytest.LogCaptureFixture):
    source = Counting([6, -1, 2, 6, 4])
    clips = loader(source)
    with caplog.at_level(logging.WARNING):
        first = values(clips.excerpts(0, 50, 3))
        longer = values(clips.excerpts(0, 50, 5))
    assert {clip[0] // 10 for clip in first} == {0, 3, 4}
    assert {clip[0] // 10 for clip in longer} == {0, 3}
    assert sorted(caplog.messages) == [
        "left out: clips/2.mp4 is too short: 2 of 3 frames",
        "left out: clips/4.mp4 is too short: 4 of 5 frames",
        "left out: file 1 is corrupt",
    ]
    assert source.reads.count(1) == source.reads.count(2) == 1
    # What is left out does not depend on what was read before.
    assert values(loader(source).excerpts(20, 5, 5)) == longer[20:25]


def test_every_clip_that_can_be_used_is_found():
    assert values(loader(Counting([-1] * 20 + [3])).excerpts(0, 10, 3)) == [[200, 201, 202]] * 10
    with pytest.raises(StarflowError, match=r"none of the 3 clips .* 5 frames at 4 fps"):
        loader(Counting([8, 4, -1]), fps=FPS / 2).excerpts(0, 1, 5)


def test_processes_read_the_same_clips_ahead(caplog: pytest.LogCaptureFixture):
    clips = [None if number == 1 else Clip(moving_noise(4 + number), FPS, ["a"]) for number in range(6)]
    source, size = ClipList(clips), {"fps": FPS, "height": 16, "width": 16}
    alone, shared = (ClipLoader(source, range(6), num_workers=number, **size) for number in (0, 2))
    for start in (0, 3, 6, 3):  # forward, and back
        assert torch.equal(shared.excerpts(start, 3, 3), alone.excerpts(start, 3, 3))
    assert torch.equal(shared.excerpts(3, 2, 5), alone.excerpts(3, 2, 5))
    for start in range(0, 90, 6):  # every other batch, as one of two processes that train together
        shared.excerpts(start, 3, 3)
    assert len(shared._ahead) < 30
    assert caplog.messages.count("left out: clip-1.mp4 is corrupt") == 2  # once by each loader


@pytest.mark.parametrize("num_workers", [0, 1])
def test_marks_are_cut_and_scaled_with_the_frames(num_workers: int):
    video = moving_noise(12, 32, 48)
    marked = Clip(video, FPS, ["a"], marks=video[..., 0])  # so that marks are to be where the red is
    source = ClipList([marked])
    size = {"fps": FPS, "height": 16, "width": 16}
    clips, marks = ClipLoader(source, range(1), num_workers=num_workers, **size).marked_excerpts(0, 2, 5)
    assert clips.shape == (2, 5, 3, 16, 16) and marks is not None and marks.shape == (2, 5, 1, 16, 16)
    torch.testing.assert_close(2 * marks - 1, clips[:, :, :1], rtol=0, atol=1e-5)
    assert marks[0].unique().numel() > 2

    mixed = ClipList([marked, replace(marked, marks=None)])
    assert ClipLoader(mixed, range(2), **size).marked_excerpts(0, 2, 5)[1] is None


def test_marks_are_resampled_with_the_frames():
    video = moving_noise(12)
    source = ClipList([Clip(video, FPS, ["a"], marks=video[..., 0])])
    clips, marks = ClipLoader(source, range(1), fps=FPS / 2, height=32, width=32).marked_excerpts(0, 1, 5)
    assert marks is not None
    torch.testing.assert_close(2 * marks - 1, clips[:, :, :1], rtol=0, atol=1e-5)
