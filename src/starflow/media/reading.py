"""Reading videos, animations, pictures and folders of frames, frame by frame. See docs/media.md.

The content of a file says what it is, not its extension. Memory grows neither with the length of a video nor, where a
size is given, with its resolution.
"""

import json
import os
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from starflow.errors import StarflowError, UsageError
from starflow.media import containers, pictures
from starflow.media.frames import Frame, Frames, fit_frames
from starflow.media.timing import Timed, at_rate, constant_rate, from_time

PathLike = str | os.PathLike[str]

# Used only to find the pictures in a folder.
IMAGE_EXTENSIONS = {
    *(".avif", ".bmp", ".dpx", ".exr", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
}
FRAMES_TO_FIND_RATE = 64  # of files that do not state a rate
EXIF_DESCRIPTION = 0x010E
# What Pillow raises on corrupt files.
_PARSER_ERRORS = (
    *(EOFError, LookupError, OSError, RuntimeError, SyntaxError, ValueError),
    *(struct.error, Image.DecompressionBombError),
)


@dataclass(frozen=True)
class Video(ABC):
    """What a path shows. Nothing is kept open; each call of `frames` reads from the beginning.

    Attributes:
        path: the file or folder.
        height, width: the size at which it is displayed, in pixels: upright, with square pixels.
        is_image: whether it is a single picture, without a duration.
        fps: its usual frame rate; 0 for an image, and for a folder of frames that states none. The frames of such a
            folder are a second apart.
        tick: the seconds to which times are rounded.
    """

    path: Path
    height: int
    width: int
    is_image: bool
    fps: float
    tick: float = 0.001

    def frames(
        self,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
        max_frames: int | None = None,
        start: float = 0.0,
    ) -> Iterator[Timed[Frame]]:
        """The frames `(height, width, 3)` with their times, decoded as they are asked for.

        Args:
            fps: resample to this rate by the times (`starflow.media.timing.at_rate`); None: the frames as they are.
            size: height and width to scale and crop to; None: the displayed size of the video.
            max_frames: the most frames to give.
            start: the time in seconds that the first frame is shown at; times count from there.

        Raises:
            StarflowError: the file is corrupt or cannot be read.
        """
        with corrupt_is_an_error(self.path):
            decoded = from_time(self._decode_from(start, size), start) if start else self._decode(size)
            shown = decoded if fps is None else at_rate(decoded, fps)
            previous, image = None, None
            for time, end, item in islice(shown, max_frames):
                if image is None or item is not previous:
                    previous, image = item, self._to_rgb(item, size)
                yield Timed(time, end, image)

    def last_time(self) -> float:
        """The time of the last frame in seconds, found without decoding where the format allows it.

        Raises StarflowError if the file is corrupt.
        """
        return self.scan()[1]

    def scan(self) -> tuple[int, float]:
        """Decode the whole file, without keeping anything: the number of frames, and the time of the last.

        Raises StarflowError if the file is corrupt.
        """
        num_frames, last = 0, 0.0
        with corrupt_is_an_error(self.path):
            for frame in self._decode(None):
                num_frames, last = num_frames + 1, frame.time
        return num_frames, last

    @abstractmethod
    def _decode(self, size: tuple[int, int] | None) -> Iterator[Timed[Any]]:
        """The frames as the decoder gives them."""

    def _decode_from(self, start: float, size: tuple[int, int] | None) -> Iterator[Timed[Any]]:
        """The frames from `start` or from an earlier time on."""
        return self._decode(size)

    @abstractmethod
    def _to_rgb(self, item: Any, size: tuple[int, int] | None) -> Frame: ...


@dataclass(frozen=True)
class _Pictures(Video):
    """A picture or an animation that Pillow reads."""

    def _decode(self, size: tuple[int, int] | None) -> Iterator[Timed[Image.Image]]:
        with pictures.open_picture(self.path) as image:
            yield from pictures.decode(image, size)

    def _to_rgb(self, item: Image.Image, size: tuple[int, int] | None) -> Frame:
        return pictures.to_rgb(item, size)


@dataclass(frozen=True)
class _Container(Video):
    """A video file that FFmpeg reads."""

    display: containers.Display = containers.AS_STORED
    origin: float = 0.0  # time stamp of the first frame, in seconds

    def last_time(self) -> float:
        return self._last_time

    @cached_property
    def _last_time(self) -> float:
        if self.is_image:
            return 0.0
        with corrupt_is_an_error(self.path):
            last = containers.last_time(self.path, self.origin)
        return super().last_time() if last is None else last

    def _decode(self, size: tuple[int, int] | None) -> Iterator[Timed[Any]]:
        with containers.open_stream(self.path) as (container, stream):
            yield from _with_reformatter(containers.decode(container, stream))

    def _decode_from(self, start: float, size: tuple[int, int] | None) -> Iterator[Timed[Any]]:
        return _with_reformatter(containers.decode_from(self.path, start, self.origin))

    def _to_rgb(self, item: Any, size: tuple[int, int] | None) -> Frame:
        frame, reformatter = item
        image = containers.to_rgb(frame, self.display, reformatter, size)
        return fit_frames(image[None], *(size or (self.height, self.width)))[0]  # the size may change within a stream


def _with_reformatter(frames: Iterator[Timed[Any]]) -> Iterator[Timed[Any]]:
    """The frames of a file, each with the reformatter that all of them share."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    for frame in frames:
        yield Timed(frame.time, frame.end, (frame.item, reformatter))


@dataclass(frozen=True)
class _Folder(Video):
    """A folder of pictures."""

    def _decode(self, size: tuple[int, int] | None) -> Iterator[Timed[Path]]:
        interval = 1 / (self.fps or 1)
        for index, path in enumerate(images_in(self.path)):
            yield Timed(index * interval, (index + 1) * interval, path)

    def _to_rgb(self, item: Path, size: tuple[int, int] | None) -> Frame:
        picture = open_video(item)
        if (picture.height, picture.width) != (self.height, self.width):
            raise StarflowError(f"the images in {self.path} have different sizes")
        return next(picture.frames(size=size)).item


def open_video(path: PathLike, folder_fps: float | None = None) -> Video:
    """Find out what a file or a folder of frames shows.

    Args:
        path: a video, animation or picture, or a folder of pictures, in the order of the numbers in their names.
        folder_fps: the frame rate of a folder, instead of the one that `write_video` stored in its pictures.

    Raises:
        StarflowError: the file is missing, empty or corrupt, or contains no video.
        UsageError: a frame rate is given for a file, which has its own times.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, folder_fps)
    if folder_fps is not None:
        raise UsageError(f"{path} has its own times: a frame rate can be given for a folder of frames only")
    _check_file(path)
    with corrupt_is_an_error(path):
        if pictures.is_hdr(path):
            return _open_container(path)
        try:
            return _open_picture(path)
        except UnidentifiedImageError:
            return _open_container(path)


def _open_picture(path: Path) -> Video:
    with pictures.open_picture(path) as image:
        height, width = pictures.displayed_size(image)
        if pictures.is_still(image):
            return _Pictures(path, height, width, is_image=True, fps=0)
        tick = pictures.GIF_TICK if image.format == "GIF" else Video.tick
        return _Pictures(path, height, width, is_image=False, fps=_rate(pictures.decode(image), tick), tick=tick)


def _open_container(path: Path) -> Video:
    with containers.open_stream(path) as (container, stream):
        decoded = containers.decode(container, stream)
        first = next(decoded, None)
        if first is None:
            raise StarflowError(f"{path} contains no video")
        display = containers.display_of(stream, first.item)
        height, width = containers.displayed_size(first.item, display)
        second = next(decoded, None)
        if second is None:
            return _Container(path, height, width, is_image=True, fps=0, display=display)
        tick = min(float(stream.time_base or Video.tick), Video.tick)
        fps = float(stream.average_rate or 0) or _rate(chain([first, second], decoded), tick)
        origin = first.item.time or 0.0
        return _Container(path, height, width, is_image=False, fps=fps, tick=tick, display=display, origin=origin)


def _rate(frames: Iterator[Timed[Any]], tick: float) -> float:
    """The usual rate of the first frames."""
    times = [Timed(frame.time, frame.end, None) for frame in islice(frames, FRAMES_TO_FIND_RATE)]
    return constant_rate(times, tick)[1]


def _open_folder(folder: Path, fps: float | None) -> Video:
    first_path = images_in(folder)[0]
    first = open_video(first_path)
    if fps is None:
        fps = _stored_rate(first_path)
    return _Folder(folder, first.height, first.width, is_image=False, fps=fps)


def _stored_rate(picture: Path) -> float:
    """The frame rate that `write_video` stored in a picture of a folder; 0 if there is none."""
    try:
        with pictures.open_picture(picture) as image:
            return float(image.info.get("Frame rate", 0))
    except (UnidentifiedImageError, ValueError):
        return 0.0


def read_video(path: PathLike, size: tuple[int, int] | None = None) -> tuple[Frames, float]:
    """Read the whole of a short video, animation, picture or folder of frames.

    Args:
        path: see `open_video`.
        size: height and width to scale and crop to; None: the displayed size.

    Returns:
        The frames (F, height, width, 3), and the frame rate: 0 for a picture, and for a folder that states none. Frames
        that are not shown at a constant rate are resampled to one.

    Raises:
        StarflowError: as `open_video` and `Video.frames`.
    """
    video = open_video(path)
    frames = list(video.frames(size=size))
    if not video.fps:
        return np.stack([frame.item for frame in frames]), 0.0
    images, fps = constant_rate(frames, video.tick, video.fps)
    return np.stack(images), fps


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The metadata that `write_video` stored in a file or a folder of frames; empty if there is none.

    Raises:
        StarflowError: the file is missing, empty or corrupt.
    """
    path = Path(path)
    if path.is_dir():
        path = images_in(path)[0]
    open_video(path)  # raises StarflowError
    with corrupt_is_an_error(path):
        comment = _read_comment(path)
    try:
        metadata = json.loads(comment) if isinstance(comment, str | bytes) else None
    except ValueError:  # a comment of another program
        metadata = None
    return metadata if isinstance(metadata, dict) else {}


def _read_comment(path: Path) -> Any:
    try:
        with pictures.open_picture(path) as image:
            return image.info.get("comment") or image.info.get("Comment") or image.getexif().get(EXIF_DESCRIPTION)
    except UnidentifiedImageError:
        with containers.open_stream(path) as (container, _):
            return container.metadata.get("comment")


def images_in(folder: Path) -> list[Path]:
    """The pictures of a folder, ordered by the numbers in their names: 10 comes after 9. Hidden files are ignored.

    Raises StarflowError if there are none.
    """
    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    if not images:
        raise StarflowError(f"the folder {folder} contains no images")
    return sorted(images, key=lambda path: [part.zfill(12) for part in re.split(r"(\d+)", path.name)])


def _check_file(path: Path) -> None:
    if not path.exists():
        raise StarflowError(f"no such file: {path}")
    if not path.is_file():
        raise StarflowError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise StarflowError(f"{path} is empty (0 bytes)")


@contextmanager
def corrupt_is_an_error(path: Path) -> Iterator[None]:
    """Turn what Pillow and FFmpeg raise on a corrupt file into a StarflowError."""
    try:
        yield
    except StarflowError:
        raise
    except Exception as error:
        of_ffmpeg = type(error).__module__ == "av.error"
        if not of_ffmpeg and (isinstance(error, PermissionError) or not isinstance(error, _PARSER_ERRORS)):
            raise
        raise StarflowError(f"cannot read {path}: it is corrupt, or neither a video nor an image") from error
