"""A folder of clips and pictures, each with a text file of the same name beside it that holds its caption."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from starflow.data.clip import Clip
from starflow.errors import StarflowError, UsageError
from starflow.media.reading import IMAGE_EXTENSIONS
from starflow.media.video import open_video, read_video

VIDEO_EXTENSIONS = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm"),
    ".wmv",
}
HASHED_BYTES = 2**20  # of the beginning of each file


@dataclass(frozen=True)
class ClipFolder:
    """The clips and pictures in a folder and the folders below it, in the order of their names.

    `clips/walk/dog.mp4` has its caption in `clips/walk/dog.txt`: the whole text is one caption. Files whose names begin
    with a dot are not looked at. `left_out` names what has no caption.

    Raises UsageError if there is no such folder, or nothing in it can be used.
    """

    path: str

    def __post_init__(self) -> None:
        if not Path(self.path).is_dir():
            raise UsageError(f"no folder of clips at {self.path}")
        if not self.files:
            reasons = f" ({self.left_out[0]})" if self.left_out else ""
            raise UsageError(f"{self.path} holds no clip with a caption beside it, such as a.mp4 and a.txt{reasons}")

    @cached_property
    def files(self) -> list[Path]:
        """The clips and pictures that have a caption."""
        return [file for file in self._media() if _caption(file)]

    @cached_property
    def left_out(self) -> list[str]:
        """What is in the folder and is no part of the source, each with the reason."""
        return [
            f"{file}: no caption in {file.with_suffix('.txt').name}" for file in self._media() if not _caption(file)
        ]

    @property
    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and beginnings, and of the captions."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as content:
                beginning = hashlib.sha256(content.read(HASHED_BYTES)).hexdigest()
            about = [str(file.relative_to(self.path)), str(file.stat().st_size), beginning, _caption(file)]
            digest.update("\0".join(about).encode())
        return f"folder {digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Clip:
        """The clip or picture, read from its file. Raises StarflowError if it is corrupt."""
        file = self.files[index]
        frames, fps = read_video(file)
        return Clip(frames, fps, [_caption(file)], name=str(file))

    def fitted(self, index: int, height: int, width: int, fps: float, max_frames: int | None = None) -> Clip:
        """See `starflow.data.clip.FittingSource`."""
        file = self.files[index]
        video = open_video(file)
        if video.is_image or fps:
            frames = list(video.frames(fps if video.fps else None, (height, width), max_frames))
            images, own_fps = np.stack([frame.item for frame in frames]), fps if video.fps else 0.0
        else:
            images, own_fps = read_video(file, (height, width))
        return Clip(images[:max_frames], own_fps, [_caption(file)], name=str(file))

    def _media(self) -> Iterator[Path]:
        for file in sorted(Path(self.path).rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(self.path).parts)
            if not hidden and file.is_file() and file.suffix.lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
                yield file


def _caption(file: Path) -> str:
    """The text beside a file, with single spaces; empty if there is none. Raises StarflowError if it is not text."""
    text = file.with_suffix(".txt")
    try:
        return " ".join(text.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise StarflowError(f"{text} is not UTF-8 text") from None
