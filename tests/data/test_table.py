import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from clip_sources import write_clip
from starflow.data.sources import build_source
from starflow.data.table import CAPTION_COLUMNS, FILE_COLUMNS, ClipTable
from starflow.errors import StarflowError, UsageError

ROWS = [("clips/a.mp4", "first\n clip "), ("b.png", "zweiter – 第二")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clips" / "a.mp4", "", 5, 32, 48, fps=12)
    write_clip(tmp_path / "b.png", "", 1, 32, 32, fps=0)
    return tmp_path


def write_table(path: Path, columns: tuple[str, str], rows) -> ClipTable:
    path.parent.mkdir(exist_ok=True)
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(records)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return ClipTable(str(path))


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("file_column", FILE_COLUMNS)
@pytest.mark.parametrize("caption_column", CAPTION_COLUMNS)
def test_tables_of_every_type_with_the_usual_columns(
    folder: Path, extension: str, file_column: str, caption_column: str
):
    source = write_table(folder / f"table{extension}", (file_column, caption_column), ROWS)
    assert [(file.path, file.captions) for file in source.files] == [
        (folder / "clips/a.mp4", ["first clip"]),
        (folder / "b.png", ["zweiter – 第二"]),
    ]
    assert source.left_out == []


def test_clips_are_read_relative_to_the_table(folder: Path):
    source = write_table(folder / "clips" / "table.csv", ("video", "text"), [("a.mp4", "first"), ("../b.png", "b")])
    assert [(clip.video.shape, clip.fps) for clip in map(source.__getitem__, range(2))] == [
        ((5, 32, 48, 3), 12),
        ((1, 32, 32, 3), 0),
    ]


def test_other_columns_can_be_named_and_captions_can_be_several(folder: Path):
    (folder / "t.jsonl").write_text(json.dumps({"where": "b.png", "what": ["one", "two", ""]}))
    source = build_source(
        {"source": "table", "path": str(folder / "t.jsonl"), "file_column": "where", "caption_column": "what"}
    )
    assert source[0].captions == ["one", "two"]
    with pytest.raises(UsageError, match=r"no column of files called file_name or .*: it has where, what; .*file_col"):
        ClipTable(str(folder / "t.jsonl"))


def test_the_layout_of_hugging_face_is_found(folder: Path):
    write_table(folder / "metadata.csv", ("file_name", "text"), [("b.png", "b")])
    write_table(folder / "clips" / "metadata.jsonl", ("file_name", "text"), [("a.mp4", "a")])
    source = ClipTable(str(folder))
    assert [file.captions for file in source.files] == [["a"], ["b"]]


def test_rows_that_cannot_be_used_are_named(folder: Path):
    table = folder / "t.jsonl"
    rows = [("b.png", "b"), ("c.mp4", "c"), (None, "d"), ("b.png", None), ("b.png", "  "), ("b.png", ["", 3])]
    source = write_table(table, ("path", "cap"), rows)
    assert len(source) == 1
    assert source.left_out == [
        f"{table}, row 2: no such file: {folder / 'c.mp4'}",
        f"{table}, row 3: no file",
        *(f"{table}, row {number}: no caption of {folder / 'b.png'}" for number in (4, 5, 6)),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"", "is no table of clips"),
        ("t.jsonl", b'{"path": ', "cannot read"),
        ("t.jsonl", b"[1]", "is not a JSON object"),
        ("t.csv", b"path,cap\n\xff\xfa,b", "cannot read"),
        ("t.parquet", b"no parquet", "cannot read"),
        ("t.csv", b"", "lists no clip that can be used"),
        ("t.csv", b"path,cap\nc.mp4,c\n", r"lists no clip that can be used \(.*row 1: no such file"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StarflowError, match=message) as error:
        ClipTable(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_no_table_is_a_usage_error(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere.csv"):
        with pytest.raises(UsageError, match="no table of clips at"):
            ClipTable(str(path))
