import gc
import json
import pickle
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest

from clip_sources import write_clip
from starflow.data.reading import open_clip
from starflow.data.webdataset import WebDataset
from starflow.errors import StarflowError, UsageError
from tar_shards import shard
from traced_memory import bytes_per_item


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("media")
    for number in range(3):
        write_clip(folder / f"{number}.mp4", "", 5, 32, 48, 12, seed=number)
    write_clip(folder / "3.png", "", 1, 32, 32, 0)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, media: dict[str, bytes]) -> Path:
    (tmp_path / "000.tar").write_bytes(
        shard({"a/0.mp4": media["0.mp4"], "a/0.txt": b"zero", "1.json": b'{"text": "one"}', "1.mp4": media["1.mp4"]})
    )
    several = json.dumps({"caption": ["three", "a picture"]}).encode()
    (tmp_path / "001.tar").write_bytes(
        shard({"2.mp4": media["2.mp4"], "2.caption": "二".encode(), "3.png": media["3.png"], "3.json": several})
    )
    return tmp_path


def captions(source: WebDataset) -> list[list[str]]:
    return [list(member.captions) for member in source.members]


@pytest.mark.parametrize("pattern", ["{000..001}.tar", "*.tar", "00{0,1}.tar"])
def test_shards_are_read_in_order(folder: Path, media: dict[str, bytes], tmp_path: Path, pattern: str):
    source = WebDataset(str(folder / pattern))
    assert captions(source) == [["zero"], ["one"], ["二"], ["three", "a picture"]]
    assert [source[index].video.shape for index in range(4)] == [(5, 32, 48, 3)] * 3 + [(1, 32, 32, 3)]
    assert source[0].name.endswith("000.tar/a/0.mp4")
    assert source.left_out == []


def test_shards_in_a_store_are_the_same_as_on_disk(folder: Path):
    memory = fsspec.filesystem("memory")
    for path in folder.glob("*.tar"):
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
    in_store, on_disk = WebDataset("memory://shards/*.tar"), WebDataset(f"file://{folder}/*.tar")
    assert captions(in_store) == captions(on_disk)
    assert [in_store.identity(index) for index in range(4)] == [on_disk.identity(index) for index in range(4)]
    with open_clip(in_store, 2, 6) as clip:
        part = clip.read(1 / 6, 2, (16, 24)).video
    with open_clip(on_disk, 2, 6) as clip:
        assert np.array_equal(part, clip.read(1 / 6, 2, (16, 24)).video)


def test_an_identity_changes_with_the_clip_or_its_caption(folder: Path, media: dict[str, bytes]):
    before = WebDataset(str(folder / "000.tar"))
    files = {"a/0.mp4": media["0.mp4"], "a/0.txt": b"new", "1.txt": b"one", "1.mp4": media["1.mp4"]}
    (folder / "000.tar").write_bytes(shard(files))
    after = WebDataset(str(folder / "000.tar"))
    assert before.identity(0) != after.identity(0)
    assert before.identity(1) == after.identity(1)


def test_what_cannot_be_used_is_named(tmp_path: Path, media: dict[str, bytes]):
    files = {
        "0.mp4": media["0.mp4"],
        "0.txt": b"zero",
        "0.png": media["3.png"],
        "1.mp4": media["1.mp4"],
        "2.mp4": media["2.mp4"],
        "2.txt": b"\xff\xfa",
        "3.mp3": b"music",
    }
    (tmp_path / "0.tar").write_bytes(shard(files))
    (tmp_path / "1.tar").write_bytes(b"no tar file")
    source = WebDataset(str(tmp_path / "*.tar"))
    assert [member.name for member in source.members] == ["0.mp4"]
    reasons = [line.removeprefix(f"file://{tmp_path}/") for line in source.left_out]
    assert reasons[:5] == [
        "0.tar/2.txt: it is not UTF-8 text, or not JSON",
        "0.tar/0.png: its caption is that of 0.mp4",
        "0.tar/1.mp4: no caption",
        "0.tar/2.mp4: no caption",
        "0.tar/3.mp3: it is neither a clip nor a caption",
    ]
    assert reasons[5].startswith("1.tar: it is no tar file, or is cut off after 0 clips")


def test_a_shard_that_is_cut_off_keeps_its_first_clips(folder: Path):
    whole = (folder / "000.tar").read_bytes()
    (folder / "000.tar").write_bytes(whole[: len(whole) // 2])
    source = WebDataset(str(folder / "000.tar"))
    assert captions(source)[0] == ["zero"]
    assert "cut off" in source.left_out[0]


def test_a_corrupt_clip_is_named_by_its_shard(tmp_path: Path):
    (tmp_path / "0.tar").write_bytes(shard({"0.mp4": b"no video", "0.txt": b"zero"}))
    with pytest.raises(StarflowError, match=r"cannot read .*0\.tar/0\.mp4: it is corrupt"):
        WebDataset(str(tmp_path / "0.tar"))[0]


@pytest.mark.parametrize("name", ["nowhere.tar", "*.tar", "memory://nowhere/0.tar", "nostore://0.tar"])
def test_no_shard_or_store_is_a_usage_error(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match=r"no shard at|cannot open"):
        WebDataset(name if "://" in name else str(tmp_path / name))


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path):
    def bytes_kept(number: int) -> int:
        files = {f"{index}.{kind}": b"a caption of some length" for index in range(number) for kind in ("mp4", "txt")}
        (tmp_path / f"{number}.tar").write_bytes(shard(files))
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        source = WebDataset(str(tmp_path / f"{number}.tar"))
        assert len(source.members) == number
        assert [source.members[index].name for index in (0, number - 1)] == ["0.mp4", f"{number - 1}.mp4"]
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    assert bytes_per_item(bytes_kept) < 1


def test_a_copy_in_another_process_reads_the_same_index(folder: Path):
    source = WebDataset(str(folder / "000.tar"))
    index = source.members.folder
    assert len(pickle.dumps(source)) < 1000
    assert list(pickle.loads(pickle.dumps(source)).members) == list(source.members)
    assert index.exists()
    del source
    gc.collect()
    assert not index.exists()


def test_a_store_that_fails_is_no_fault_of_the_clips(folder: Path, monkeypatch: pytest.MonkeyPatch):
    source = WebDataset(str(folder / "000.tar"))

    def dead(*_: object, **__: object) -> bytes:
        raise RuntimeError("connection lost")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "cat_file", dead)
    with pytest.raises(OSError, match=r"the store does not answer for .*000\.tar: connection lost"):
        source[0]
