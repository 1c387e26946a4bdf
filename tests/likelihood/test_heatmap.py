from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from PIL import Image

from starflow.likelihood.heatmap import latent_frames, overlay, write_heatmap, write_plot
from starflow.media.video import read_video


def gray_clip() -> np.ndarray:
    return np.full((9, 32, 48, 3), 100, dtype=np.uint8)


def test_latent_frames_of_video_frames():
    assert latent_frames(9, 4).tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert latent_frames(1, 4).tolist() == [0]
    assert latent_frames(1, 1).tolist() == [0]


def test_a_token_is_drawn_over_its_pixels_and_frames():
    surprise = np.zeros((3, 2, 3))
    surprise[1, 0, 2] = 1
    heat = overlay(gray_clip(), surprise, 4, Normalize(0, 1))
    lit = heat.sum(axis=-1) != heat[0].sum(axis=-1).min()
    expected = np.zeros((9, 32, 48), dtype=bool)
    expected[1:5, :16, 32:] = True
    np.testing.assert_array_equal(lit, expected)


def test_the_video_is_visible_under_the_colors():
    clip = gray_clip()
    clip[:, 8:16, 8:16] = (255, 0, 0)
    heat = overlay(clip, np.zeros((3, 2, 3)), 4, Normalize(0, 1))
    assert len(np.unique(heat.sum(axis=-1))) == 2


def test_a_heatmap_and_a_plot_are_written(tmp_path: Path):
    clip, surprise = gray_clip(), np.random.default_rng(0).normal(size=(3, 2, 3))
    written = write_heatmap(tmp_path / "heat.mp4", clip, 8, surprise, 4, "a title " * 30)
    frames, fps = read_video(written)
    assert len(frames) == 9
    assert fps == 8
    assert np.abs(frames[1].astype(int) - frames[8]).mean() > 0.1  # the surprise and the cursor move
    write_plot(tmp_path / "heat.png", clip, 8, surprise, 4, "")
    with Image.open(tmp_path / "heat.png") as image:
        assert image.width == 800


def test_constant_surprise_can_be_drawn(tmp_path: Path):
    clip = gray_clip()[:1]
    write_heatmap(tmp_path / "heat.gif", clip, 8, np.zeros((1, 2, 3)), 4, "")
    write_plot(tmp_path / "heat.png", clip, 8, np.zeros((1, 2, 3)), 4, "")
