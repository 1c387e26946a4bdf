from pathlib import Path

import numpy as np
import pytest

from clip_sources import ClipList, moving_noise, write_clip
from starflow.data.check import check_source
from starflow.data.clip import Clip
from starflow.data.fitting import ClipFormat
from starflow.data.folder import ClipFolder

TO = ClipFormat(9, 8, 32, 32, sizes=((32, 32), (32, 64)), lengths=(5, 9))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ClipFolder:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mp4", "a caption", 17, 32, 64, 16)
    write_clip(folder / "b.mp4", "a caption", 6, 32, 32, 8, seed=1)
    write_clip(folder / "c.mp4", "short", 3, 32, 32, 8, seed=2)
    write_clip(folder / "d.png", "a very long caption", 1, 64, 128, 0, seed=3)
    write_clip(folder / "e.mp4", "cut off", 9, 64, 64, 8, seed=4)
    write_clip(folder / "f.mp4", "", 9, 32, 32, 8)
    write_clip(folder / "g.mp4", "the same as b", 6, 32, 32, 8, seed=1)
    content = bytearray((folder / "e.mp4").read_bytes())
    where = content.index(b"mdat") + 4
    content[where:] = bytes(len(content) - where)
    (folder / "e.mp4").write_bytes(content)
    (folder / "h.mp4").write_bytes(b"")
    (folder / "h.txt").write_text("empty")
    return ClipFolder(str(folder))


def cut_off(caption: str) -> str:
    return caption[9:].strip()


def test_the_report_counts_what_is_there_and_names_what_is_not(source: ClipFolder):
    report = check_source(source, TO, cut_off, show_progress=False)
    about = report.summary
    assert (about["videos"], about["pictures"], about["captions"]) == (4, 1, 5)
    assert about["seconds"] == pytest.approx(17 / 16 + 6 / 8 + 3 / 8 + 6 / 8, abs=0.01)
    assert about["sizes"] == {"32x32": 3, "64x32": 1, "128x64": 1}
    assert about["aspect_ratios"] == {"1:1": 3, "16:9": 2}
    assert about["rates"] == {"8": 3, "16": 1}
    assert about["frames"] == [3, 17]
    assert {(b["num_frames"], b["height"], b["width"]): b["clips"] for b in about["buckets"]} == {
        (1, 32, 32): 0,
        (5, 32, 32): 2,
        (9, 32, 32): 0,
        (1, 32, 64): 1,
        (5, 32, 64): 0,
        (9, 32, 64): 1,
    }
    folder = Path(source.path)
    assert report.left_out[0] == f"{folder / 'f.mp4'}: no caption in f.txt"
    assert report.left_out[1] == f"{folder / 'c.mp4'}: has 3 frames at 8 fps, and the model's clips have 5"
    assert [line.split(" ")[2].strip(":") for line in report.left_out[2:3]] == [str(folder / "e.mp4")]
    assert report.left_out[3] == f"{folder / 'h.mp4'} is empty (0 bytes)"
    assert report.duplicates == [f"{folder / 'g.mp4'} shows the same as {folder / 'b.mp4'}"]
    assert report.long_captions == [
        f"{folder / 'd.png'}: the end of the caption is cut off, from 'ng caption' on",
        f"{folder / 'g.mp4'}: the end of the caption is cut off, from 'as b' on",
    ]


def test_every_clip_is_either_in_the_report_or_named(source: ClipFolder):
    report = check_source(source, TO, show_progress=False)
    named = [clip.name for clip in report.clips] + report.left_out
    for path in Path(source.path).glob("*.[mp]*"):
        assert any(str(path) in line for line in named), path


def test_clips_in_memory_are_checked_without_a_format():
    report = check_source(ClipList([Clip(moving_noise(9), 8, ["a"]), None]), show_progress=False)
    assert report.summary["videos"] == 1 and report.summary["buckets"] is None
    assert report.left_out == ["clip-1.mp4 is corrupt"]
    (clip,) = report.clips
    assert clip.thumbnails is not None and clip.thumbnails.shape == (6, 96, 96, 3)
    assert not np.array_equal(clip.thumbnails[0], clip.thumbnails[-1])
