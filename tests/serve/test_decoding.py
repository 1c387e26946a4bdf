import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server_helpers import clip_file
from starflow.errors import StarflowError
from starflow.serve.decoding import Wanted, decode, read_frames
from starflow.serve.settings import MIB, Limits


def test_a_picture_is_fitted_to_the_size(tmp_path: Path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    assert decode(tmp_path / "red.png", tmp_path / "frames", Wanted(32, 48), Limits()) == 1
    frames = read_frames(tmp_path / "frames")
    assert frames.shape == (1, 32, 48, 3)
    assert (frames == (255, 0, 0)).all()


@pytest.mark.parametrize(("keep_end", "first"), [(False, 0), (True, 2)])
def test_a_clip_is_cut_to_what_the_vae_can_encode(tmp_path: Path, keep_end: bool, first: int):
    clip = clip_file(tmp_path / "clip.mp4", num_frames=11)
    all_frames = Wanted(32, 32, 8)
    assert decode(clip, tmp_path / "all", all_frames, Limits()) == 11
    assert decode(clip, tmp_path / "cut", Wanted(32, 32, 8, 4, keep_end=keep_end), Limits()) == 9
    whole, cut = (read_frames(tmp_path / name) for name in ("all", "cut"))
    np.testing.assert_array_equal(cut, whole[first : first + 9])


def test_frames_with_too_many_pixels_are_refused(tmp_path: Path):
    Image.new("RGB", (300, 300)).save(tmp_path / "large.png")
    with pytest.raises(StarflowError, match="its frames are 300×300: at most 10000 pixels"):
        decode(tmp_path / "large.png", tmp_path / "frames", Wanted(32, 32), Limits(upload_pixels=10_000))


def test_decoding_is_bounded_in_memory(tmp_path: Path):
    Image.new("RGB", (6000, 6000)).save(tmp_path / "large.png")
    with pytest.raises(StarflowError, match=r"memory|corrupt"):
        decode(tmp_path / "large.png", tmp_path / "frames", Wanted(32, 32), Limits(decoding_bytes=16 * MIB))
    assert not (tmp_path / "frames").exists()


def test_decoding_is_bounded_in_time(tmp_path: Path):
    clip = clip_file(tmp_path / "clip.mp4", num_frames=2)
    start = time.monotonic()
    with pytest.raises(StarflowError, match="too long"):
        decode(clip, tmp_path / "frames", Wanted(32, 32, 8), Limits(decoding_seconds=0))
    assert time.monotonic() - start < 5
