from pathlib import Path

import numpy as np
import pytest

from clip_sources import ClipList, moving_noise, write_clip
from made_media import colored, number_of, write_media
from starflow.data.clip import Clip, Edit
from starflow.data.folder import ClipFolder
from starflow.data.reading import open_clip
from starflow.errors import StarflowError
from starflow.media.frames import fit_frames


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ClipFolder:
    folder = tmp_path_factory.mktemp("clips")
    write_media(folder / "a.mp4", colored(20), 12)
    (folder / "a.txt").write_text("a clip")
    write_clip(folder / "b.png", "a picture", 1, 32, 48, 0)
    return ClipFolder(str(folder))


def test_a_part_of_a_file_equals_that_part_of_the_whole(source: ClipFolder):
    whole = source[0].video
    with open_clip(source, 0, 6) as clip:
        assert (clip.num_frames(), clip.size, clip.is_image, clip.fps) == (10, (48, 64), False, 6)
        for first in (0, 3, 9):
            part = clip.read(first / 6, 4, (24, 32))
            assert part.video.shape[1:] == (24, 32, 3)
            assert np.abs(part.video.astype(int) - fit_frames(whole[2 * first :: 2][:4], 24, 32)).mean() < 2
        assert (part.fps, list(part.captions)) == (6, ["a clip"])
        assert part.name == f"{source.files[0].path} from 1.50 s"


def test_rate_0_is_the_rate_of_the_file(source: ClipFolder):
    with open_clip(source, 0, 0) as clip:
        assert (clip.fps, clip.num_frames()) == (12, 20)
        assert [number_of(frame) for frame in clip.read(5 / 12, 3, clip.size).video] == [5, 6, 7]


def test_a_picture_stays_a_picture(source: ClipFolder):
    with open_clip(source, 1, 6) as clip:
        assert (clip.is_image, clip.num_frames()) == (True, 1)
        picture = clip.read(0, 9, (16, 24))
    assert (picture.video.shape, picture.fps) == ((1, 16, 24, 3), 0)


def test_what_begins_after_the_end_is_an_error(source: ClipFolder, tmp_path: Path):
    write_media(tmp_path / "c.mp4", colored(4), 12)
    (tmp_path / "c.txt").write_text("short")
    with open_clip(ClipFolder(str(tmp_path)), 0, 12) as clip:
        assert len(clip.read(9, 4, clip.size).video) == 1  # the last frame is held
    (tmp_path / "c.mp4").write_bytes(b"no video")
    with pytest.raises(StarflowError, match=r"c\.mp4"), open_clip(ClipFolder(str(tmp_path)), 0, 12):
        pass


def test_clips_in_memory_are_read_in_parts_too():
    video = moving_noise(17)
    edited = Clip(video, 16, ["a"], ["b"], [Edit("turn", video)], "a.mp4")
    with open_clip(ClipList([edited]), 0, 8) as clip:
        assert clip.num_frames() == 9
        whole, part = clip.read(0, 9, (32, 32)), clip.read(0.5, 3, (32, 32))
    assert np.array_equal(whole.video, video[::2]) and np.array_equal(whole.edits[0].video, video[::2])
    assert np.array_equal(part.video, video[8:14:2])
    assert (part.fps, part.name, list(part.edits)) == (8, "a.mp4 from 0.50 s", [])
