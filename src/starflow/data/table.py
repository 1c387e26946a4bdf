"""A table of clips and captions: CSV, JSON lines or Parquet, or the VideoFolder and ImageFolder layout of Hugging Face.

Parquet needs the extra `table`.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from starflow.data.disk_list import Listing
from starflow.data.files import CaptionedFile, CaptionedFiles, load_file
from starflow.data.folder import open_text
from starflow.errors import StarflowError, UsageError

EXTENSIONS = (".csv", ".jsonl", ".parquet")
FILE_COLUMNS = ("file_name", "video", "video_path", "path", "media_path")
CAPTION_COLUMNS = ("caption", "text", "prompt", "cap")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ClipTable(CaptionedFiles):
    """The clips and pictures that a table lists, in its order.

    Args:
        path: a `.csv`, `.jsonl` or `.parquet` file, or a folder that holds a `metadata` file of one of these types
            itself or in folders below it. The paths in a table are relative to it.
        file_column, caption_column: names of the columns; None: the first one of `FILE_COLUMNS` and of
            `CAPTION_COLUMNS` that the table has. A caption in JSON lines or Parquet may be a list of paraphrases.

    Raises UsageError if there is no such table, a column is missing, or no row can be used; StarflowError if a table
    cannot be read.
    """

    kind: ClassVar[str] = "table"

    path: str
    file_column: str | None = None
    caption_column: str | None = None

    def __post_init__(self) -> None:
        if not self.files:
            reasons = f" ({self.left_out[0]})" if self.left_out else ""
            raise UsageError(f"{self.path} lists no clip that can be used{reasons}")

    @cached_property
    def listing(self) -> Listing[CaptionedFile]:
        """See `CaptionedFiles`."""
        return Listing(self._find(), load_file)

    def _find(self) -> Iterator[CaptionedFile | str]:
        for table in tables_at(Path(self.path)):
            columns: tuple[str, str] | None = None
            for number, row in read_rows(table):
                columns = columns or self._columns(table, row)
                file, captions = _file(table, row.get(columns[0])), captions_of(row.get(columns[1]))
                if reason := _unusable(file, captions):
                    yield f"{table}, row {number}: {reason}"
                else:
                    assert file is not None
                    yield CaptionedFile(file, captions)

    def _columns(self, table: Path, row: Row) -> tuple[str, str]:
        """The columns of the files and of the captions."""
        return (
            _column(table, row, "files", self.file_column, FILE_COLUMNS, "file_column"),
            _column(table, row, "captions", self.caption_column, CAPTION_COLUMNS, "caption_column"),
        )


def tables_at(path: Path) -> list[Path]:
    """A table file itself, or the `metadata` files in a folder and below it. Raises UsageError if there is none."""
    if path.is_file():
        if path.suffix.lower() not in EXTENSIONS:
            raise UsageError(f"{path} is no table of clips: give a {', '.join(EXTENSIONS)} file")
        return [path]
    tables = [table for table in sorted(path.rglob("metadata.*")) if table.suffix.lower() in EXTENSIONS]
    if not tables:
        raise UsageError(f"no table of clips at {path}: give a {', '.join(EXTENSIONS)} file, or a folder with metadata")
    return tables


def read_rows(table: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a table with their numbers from 1 on. Raises StarflowError if it cannot be read."""
    read = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}[table.suffix.lower()]
    try:
        yield from enumerate(read(table), start=1)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise StarflowError(f"cannot read {table}: {' '.join(str(error).split())}") from error


def _read_csv(table: Path) -> Iterable[Row]:
    with open_text(table, newline="") as lines:
        yield from csv.DictReader(lines)


def _read_json_lines(table: Path) -> Iterable[Row]:
    with open_text(table, newline="\n") as lines:
        for line in lines:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"{line[:40].rstrip()} is not a JSON object")
                yield row


def _read_parquet(table: Path) -> Iterable[Row]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise StarflowError(
            "Parquet needs the extra 'table': in the repository, pip install -c constraints.txt -e '.[table]'"
        ) from None
    with pyarrow.parquet.ParquetFile(table) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _column(table: Path, row: Row, what: str, given: str | None, candidates: tuple[str, ...], argument: str) -> str:
    if given is not None:
        candidates = (given,)
    for name in candidates:
        if name in row:
            return name
    raise UsageError(
        f"{table} has no column of {what} called {' or '.join(candidates)}: it has {', '.join(map(str, row))}; "
        f"name it with data.{argument}"
    )


def _file(table: Path, value: Any) -> Path | None:
    return table.parent / value if isinstance(value, str) and value.strip() else None


def captions_of(value: Any) -> list[str]:
    """The captions in a cell, a text or a list of texts, with single spaces; none that are empty."""
    texts = value if isinstance(value, list) else [value]
    captions = [" ".join(text.split()) for text in texts if isinstance(text, str)]
    return [caption for caption in captions if caption]


def _unusable(file: Path | None, captions: list[str]) -> str | None:
    """Why a row cannot be used; None if it can."""
    if file is None:
        return "no file"
    if not file.is_file():
        return f"no such file: {file}"
    return None if captions else f"no caption of {file}"
