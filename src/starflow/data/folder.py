"""A folder of clips and pictures, each with a text file of the same name beside it that holds its caption."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from starflow.data.files import CaptionedFile, CaptionedFiles, Listing
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
    def listing(self) -> Listing:
        """See `CaptionedFiles`. Of two files with one caption file, the first is used."""
        files: list[CaptionedFile] = []
        left_out: list[str] = []
        owners: dict[Path, Path] = {}  # the file that each caption file belongs to
        for file in media_in(Path(self.path)):
            text = file.with_suffix(".txt")
            try:
                caption = read_caption(text)
            except StarflowError as error:
                left_out.append(f"{file}: {error}")
                continue
            owner = owners.setdefault(text, file)
            if not caption:
                left_out.append(f"{file}: no caption in {text.name}")
            elif owner != file:
                left_out.append(f"{file}: {text.name} is the caption of {owner.name}: give the files different names")
            else:
                files.append(CaptionedFile(file, [caption]))
        return Listing(files, left_out)


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
        return " ".join(decode_text(text.read_bytes()).split())
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise StarflowError(f"{text} is not UTF-8 text: save it as UTF-8") from None


def decode_text(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 if it begins with a byte order mark. Raises UnicodeDecodeError."""
    has_mark = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if has_mark else "utf-8-sig")
