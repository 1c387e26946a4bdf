import shutil

import pytest

from starflow.media.files import atomic_write, remove


def test_a_write_is_complete_or_leaves_the_old_file(tmp_path):
    path = tmp_path / "sub" / "clip.mp4"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"

    def fail_half_way() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half of it")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["clip.mp4"]


def test_a_folder_replaces_a_folder(tmp_path):
    path = tmp_path / "model"
    for content in ("old", "new"):
        with atomic_write(path) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [each.name for each in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("a" * 255)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


def test_remove_deletes_files_and_folders(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    remove(tmp_path / "folder" / "file")
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_remove_goes_on_where_another_process_was_faster(tmp_path, monkeypatch):
    folder, rmtree, calls = tmp_path / "folder", shutil.rmtree, []
    folder.mkdir()

    def interrupted(path) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    remove(folder)
    assert calls == [folder, folder]
    assert not folder.exists()
