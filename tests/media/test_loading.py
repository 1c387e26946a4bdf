from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from starflow.errors import StarflowError, UsageError
from starflow.media.loading import load_clip, load_picture
from starflow.media.video import write_video


def clip(num_frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)


def test_files_are_fitted_and_it_is_said(tmp_path: Path):
    said: list[str] = []
    path = write_video(tmp_path / "clip.gif", clip(8).repeat(2, axis=2), 20)
    assert load_clip(path, 32, 32, 10, said.append).shape == (4, 32, 32, 3)
    assert load_clip(path, 32, 32, 10, said.append, max_frames=3).shape == (3, 32, 32, 3)
    assert len(said) == 4
    assert "20 fps" in said[0]
    assert "64×32" in said[1]
    assert load_picture(path, 32, 64, said.append).shape == (32, 64, 3)
    assert len(said) == 4


def test_a_still_image_is_no_clip(tmp_path: Path):
    still = write_video(tmp_path / "still.png", clip(1), 0)
    with pytest.raises(StarflowError, match="still image"):
        load_clip(still, 32, 32, 8, print)
    (tmp_path / "empty.png").touch()
    with pytest.raises(StarflowError, match="0 bytes"):
        load_picture(tmp_path / "empty.png", 32, 32, print)


def test_a_folder_of_frames_has_the_rate_stated_or_else_the_models(tmp_path: Path):
    for index, frame in enumerate(clip(9)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    said: list[str] = []
    assert np.array_equal(load_clip(tmp_path, 32, 32, 8, said.append), clip(9))
    assert len(said) == 1
    assert "no frame rate" in said[0]
    assert np.array_equal(load_clip(tmp_path, 32, 32, 8, said.append, folder_fps=16), clip(9)[::2])
    assert "16 fps: resampled" in said[1]


def test_a_rate_for_a_file_is_an_error(tmp_path: Path):
    path = write_video(tmp_path / "clip.gif", clip(8), 20)
    with pytest.raises(UsageError, match="has its own times"):
        load_clip(path, 32, 32, 8, print, folder_fps=16)
