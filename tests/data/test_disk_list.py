import gc
import pickle
from pathlib import Path

import pytest

from starflow.data import disk_list
from starflow.data.disk_list import DiskList, Listing

VALUES = [["a", 1], ["二", 2.5], [Path("c.mp4"), None]]
ITEMS = [("a", 1), ("二", 2.5), ("c.mp4", None)]


def test_items_are_those_of_the_values():
    items = DiskList(VALUES, tuple)
    assert list(items) == ITEMS
    assert [items[0], items[-1], items[1:], items[::-2]] == [ITEMS[0], ITEMS[-1], ITEMS[1:], ITEMS[::-2]]
    with pytest.raises(IndexError):
        items[3]
    assert list(DiskList([], tuple)) == [] and not DiskList([], tuple)


def test_a_copy_in_another_process_reads_the_same_files_and_does_not_remove_them():
    items = DiskList(VALUES, tuple)
    assert list(items) == ITEMS  # so that the files are mapped
    copied = pickle.dumps(items)
    assert len(copied) < 300
    assert list(pickle.loads(copied)) == ITEMS
    gc.collect()
    assert items.folder.exists()
    folder = items.folder
    del items
    gc.collect()
    assert not folder.exists()


def test_nothing_is_left_of_a_list_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_list.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TypeError):
        DiskList([1, object()], str)
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_listing_sorts_out_what_is_left_out():
    listing = Listing([("a", 1), "b: no caption", ("c", 2)], tuple)
    assert list(listing.items) == [("a", 1), ("c", 2)]
    assert listing.left_out == ["b: no caption"]
