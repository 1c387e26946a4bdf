from pathlib import Path

import pytest

from starflow.serve.content import open_first
from starflow.serve.job_files import size_of


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    """A file that is listed, but removed before anybody looks at it."""
    path = tmp_path / "video.mp4"
    path.symlink_to("nowhere")
    return path


def test_the_size_of_a_job_is_that_of_its_files(tmp_path: Path):
    (tmp_path / "video.mp4").write_bytes(b"1234")
    (tmp_path / "thumbnail.webp").write_bytes(b"56")
    (tmp_path / "given").mkdir()
    assert size_of(tmp_path) == 6
    assert size_of(tmp_path / "deleted") == 0


def test_a_job_that_is_deleted_at_this_moment_has_no_size(gone: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    assert size_of(gone.parent) == 0


def test_the_next_file_is_opened_where_one_is_gone(gone: Path, tmp_path: Path):
    (tmp_path / "finished").write_bytes(b"video")
    with open_first(gone, tmp_path / "finished") as file:
        assert file.read() == b"video"
    assert open_first(gone) is None
