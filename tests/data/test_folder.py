from pathlib import Path

import numpy as np
import pytest

from clip_sources import ClipList, moving_noise, write_clip
from starflow.data.clip import Clip, read_fitted
from starflow.data.folder import ClipFolder
from starflow.errors import StarflowError, UsageError
from starflow.media.frames import fit_frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clip(tmp_path / "b.mp4", "second\n clip ", 5, 32, 48, fps=12)
    write_clip(tmp_path / "a" / "picture.png", "first", 1, 32, 32, fps=0)
    write_clip(tmp_path / "c.mp4", "", 5, 32, 32, fps=12)
    write_clip(tmp_path / ".hidden" / "d.mp4", "hidden", 5, 32, 32, fps=12)
    return tmp_path


def test_clips_and_pictures_in_the_order_of_their_names(folder: Path):
    source = ClipFolder(str(folder))
    picture, clip = (source[index] for index in range(len(source)))
    assert (picture.video.shape, picture.fps, picture.captions) == ((1, 32, 32, 3), 0, ["first"])
    assert (clip.video.shape, clip.fps, clip.captions) == ((5, 32, 48, 3), 12, ["second clip"])
    assert clip.name == str(folder / "b.mp4")
    assert source.left_out == [f"{folder / 'c.mp4'}: no caption in c.txt"]


def test_the_fingerprint_changes_with_what_is_there(folder: Path, tmp_path: Path):
    before = ClipFolder(str(folder)).fingerprint
    assert ClipFolder(str(folder)).fingerprint == before
    (folder / "b.txt").write_text("another caption")
    changed = ClipFolder(str(folder)).fingerprint
    (folder / "c.txt").write_text("third")
    assert len({before, changed, ClipFolder(str(folder)).fingerprint}) == 3


def test_a_folder_without_clips_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="no folder of clips at nowhere"):
        ClipFolder("nowhere")
    with pytest.raises(UsageError, match="holds no clip with a caption beside it"):
        ClipFolder(str(tmp_path))


def test_a_corrupt_clip_is_named(folder: Path):
    (folder / "b.mp4").write_bytes(b"no video")
    with pytest.raises(StarflowError, match=r"b\.mp4"):
        ClipFolder(str(folder))[1]


def test_a_clip_is_read_at_the_size_rate_and_length_wanted(folder: Path):
    source = ClipFolder(str(folder))
    whole = source[1].video
    clip = read_fitted(source, 1, 16, 24, 6, 2)
    assert (clip.video.shape, clip.fps, clip.captions) == ((2, 16, 24, 3), 6, ["second clip"])
    assert np.array_equal(clip.video, fit_frames(whole[::2], 16, 24)[:2])
    assert read_fitted(source, 1, 16, 24, 6).video.shape == (3, 16, 24, 3)
    as_it_is = read_fitted(source, 1, 16, 24, 0)
    assert (as_it_is.video.shape, as_it_is.fps) == ((5, 16, 24, 3), 12)
    picture = read_fitted(source, 0, 16, 24, 6)
    assert (picture.video.shape, picture.fps) == ((1, 16, 24, 3), 0)


def test_a_source_without_a_reader_of_its_own_gives_whole_clips():
    clip = Clip(moving_noise(5), 12, ["a"])
    assert read_fitted(ClipList([clip]), 0, 16, 24, 6, 2) is clip
