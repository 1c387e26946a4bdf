"""A folder of clips and pictures, each with a text file of the same name beside it that holds its caption."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TextIO

from starflow.data.disk_list import Listing
from starflow.data.files import CaptionedFile, CaptionedFiles, load_file
from starflow.errors import StarflowError, UsageError
from starflow.media.reading import IMAGE_EXTENSIONS

VIDEO_EXTENSIONS = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm"),
    ".wmv",
}


@dataclass(frozen=True)
class ClipFolder(CaptionedFiles):
    """The clips and pictures in a folder and the folders below it, in the order of their names.

    `clips/walk/dog.mp4` has its caption in `clips/walk/dog.txt`: the whole text is one caption. Files whose names begin
    with a dot are not looked at. `left_out` names what has no caption of its own.

    Raises UsageError if there is no such folder, or nothing in it can be used.
    """

    kind: ClassVar[str] = "folder"

    path: str

    def __post_init__(self) -> None:
        if not Path(self.path).is_dir():
            raise UsageError(f"no folder of clips at {self.path}")
        if not self.files:
            reasons = f" ({self.left_out[0]})" if self.left_out else ""
            raise UsageError(f"{self.path} holds no clip with a caption beside it, such as a.mp4 and a.txt{reasons}")

    @cached_property
    def listing(self) -> Listing[CaptionedFile]:
        """See `CaptionedFiles`. Of two files with one caption file, the first is used."""
        return Listing(self._find(), load_file)

    def _find(self) -> Iterator[CaptionedFile | str]:
        owners: dict[Path, Path] = {}  # the file that each caption file belongs to
        for file in media_in(Path(self.path)):
            text = file.with_suffix(".txt")
            try:
                caption = read_caption(text)
            except StarflowError as error:
                yield f"{file}: {error}"
                continue
            owner = owners.setdefault(text, file)
            if not caption:
                yield f"{file}: no caption in {text.name}"
            elif owner != file:
                yield f"{file}: {text.name} is the caption of {owner.name}: give the files different names"
            else:
                yield CaptionedFile(file, [caption])


def media_in(folder: Path) -> Iterator[Path]:
    """The files below a folder that are clips or pictures by their names, in order; none that are hidden."""
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and file.is_file() and file.suffix.lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
            yield file


def read_caption(text: Path) -> str:
    """A text in UTF-8, or in UTF-16 with a byte order mark, with single spaces; empty if there is no such file.

    Raises StarflowError if it is not text.
    """
    try:
        with open_text(text) as file:
            return " ".join(file.read().split())
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise StarflowError(f"{text} is not UTF-8 text: save it as UTF-8") from None


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """A text file in UTF-8, or in UTF-16 if it begins with a byte order mark. Reading raises UnicodeDecodeError."""
    with path.open("rb") as file:
        encoding = encoding_of(file.read(2))
    return path.open(encoding=encoding, newline=newline)


def encoding_of(content: bytes) -> str:
    """The encoding of a text, by its byte order mark if there is one."""
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
