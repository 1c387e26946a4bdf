from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import starflow
from starflow.errors import UsageError
from starflow.media.video import read_video

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(
    "frames",
    [[[Image.fromarray(frame) for frame in FRAMES]], FRAMES[None] / 255, TENSOR[None], TENSOR, list(FRAMES)],
    ids=["pil", "np", "pt", "one clip", "list"],
)
def test_frames_of_every_kind_are_written(frames: object, tmp_path: Path):
    folder = starflow.export_to_video(frames, tmp_path / "clip.png", 8)
    written, fps = read_video(folder)
    np.testing.assert_array_equal(written, FRAMES)
    assert fps == 8
    assert starflow.export_to_video(frames, str(tmp_path / "clip.mp4"), fps=8) == tmp_path / "clip.mp4"


@pytest.mark.parametrize("frames", [[FRAMES, FRAMES], "clip.mp4", torch.zeros(1, 3, 4, 2, 2), []])
def test_what_is_not_one_clip_is_refused(frames: object, tmp_path: Path):
    with pytest.raises(UsageError, match="frames"):
        starflow.export_to_video(frames, tmp_path / "clip.mp4", 8)
    assert list(tmp_path.iterdir()) == []
