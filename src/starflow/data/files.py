"""Files on disk with captions, whatever lists them: the common part of `folder` and `table`."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from starflow.data.clip import Clip, ClipFile
from starflow.data.disk_list import Listing
from starflow.media.reading import Video
from starflow.media.video import open_video, read_video

HASHED_BYTES = 2**16  # of the beginning of each file
REMEMBERED = 10_000  # files whose size, rate and length are remembered


class CaptionedFile(NamedTuple):
    """A clip or a picture on disk, and its captions."""

    path: Path
    captions: Sequence[str]


def load_file(value: list[Any]) -> CaptionedFile:
    """A file of its value in a `Listing`."""
    path, captions = value
    return CaptionedFile(Path(path), captions)


class CaptionedFiles(ABC):
    """A source of clips (`ClipSource`, `FileSource`) of the files that `listing` finds, read once."""

    kind: ClassVar[str]  # for the fingerprint

    @property
    @abstractmethod
    def listing(self) -> Listing[CaptionedFile]:
        """The files, and what is left out."""

    @property
    def files(self) -> Sequence[CaptionedFile]:
        """The clips and pictures that can be used."""
        return self.listing.items

    @property
    def left_out(self) -> list[str]:
        """What cannot be used, each with the reason."""
        return self.listing.left_out

    @property
    def fingerprint(self) -> str:
        """A digest of the identities of the files."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(_identity(file).encode())
        return f"{self.kind} {digest.hexdigest()[:16]}"

    def identity(self, index: int) -> str:
        """A digest of the file's name, size and beginning, and of its captions. See `FileSource`."""
        return _identity(self.files[index])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Clip:
        """The whole clip or picture. Raises StarflowError if it is corrupt."""
        path, captions = self.files[index]
        frames, fps = read_video(path)
        return Clip(frames, fps, captions, name=str(path))

    @contextmanager
    def open(self, index: int) -> Iterator[ClipFile]:
        """See `FileSource`."""
        path, captions = self.files[index]
        yield ClipFile(_open(path), captions, str(path))


def _open(path: Path) -> Video:
    """What a file shows. To find out, frames must be decoded, so it is remembered from epoch to epoch."""
    if not path.is_file():
        return open_video(path)  # raises StarflowError
    about = path.stat()
    return opened(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=REMEMBERED)
def opened(path: Path, size: int, modified: int) -> Video:
    """What the file of this size and time of change shows."""
    return open_video(path)


def _identity(file: CaptionedFile) -> str:
    path, captions = file
    with path.open("rb") as content:
        beginning = hashlib.sha256(content.read(HASHED_BYTES)).hexdigest()
    about = [path.name, str(path.stat().st_size), beginning, *captions]
    return hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]
