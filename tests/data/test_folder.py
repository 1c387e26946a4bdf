from pathlib import Path

import pytest

from clip_sources import write_clip
from starflow.data import files
from starflow.data.folder import ClipFolder
from starflow.errors import StarflowError, UsageError
from starflow.media.reading import Video, open_video


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


def test_two_files_of_one_stem_do_not_share_a_caption(folder: Path):
    write_clip(folder / "b.webp", "second clip", 5, 32, 32, fps=12)
    source = ClipFolder(str(folder))
    assert [file.path.name for file in source.files] == ["picture.png", "b.mp4"]
    assert source.left_out[0] == f"{folder / 'b.webp'}: b.txt is the caption of b.mp4: give the files different names"


def test_captions_may_be_in_any_script_but_must_be_text(folder: Path):
    (folder / "b.txt").write_bytes("собака бежит 狗".encode("utf-16"))
    (folder / "c.txt").write_bytes("Süß".encode("latin-1"))
    source = ClipFolder(str(folder))
    assert source.files[1].captions == ["собака бежит 狗"]
    assert source.left_out == [f"{folder / 'c.mp4'}: {folder / 'c.txt'} is not UTF-8 text: save it as UTF-8"]


def test_an_identity_changes_with_the_file_and_its_caption_only(folder: Path):
    before = [ClipFolder(str(folder)).identity(index) for index in range(2)]
    write_clip(folder / "b.mp4", "second clip", 6, 32, 48, fps=12)
    (folder / "c.txt").write_text("third")
    after = ClipFolder(str(folder))
    assert len(after) == 3
    assert before[0] == after.identity(0)
    assert before[1] != after.identity(1)


def test_a_file_is_looked_at_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_clip(tmp_path / "0.mp4", "a", 5, 32, 48, 8)
    looked_at: list[Path] = []

    def counted(path: Path) -> Video:
        looked_at.append(path)
        return open_video(path)

    monkeypatch.setattr(files, "open_video", counted)
    source = ClipFolder(str(tmp_path))
    for _ in range(3):
        with source.open(0) as clip:
            assert clip.video.height == 32
    assert len(looked_at) == 1
    write_clip(tmp_path / "0.mp4", "a", 5, 48, 48, 8)
    with source.open(0) as clip:
        assert clip.video.height == 48
