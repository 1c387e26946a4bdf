"""Clips that are read in parts, whether their source holds them in memory or in files.

Legend: `F` video frames.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from starflow.data.clip import Clip, ClipFile, ClipSource, FileSource, locate
from starflow.data.shots import find_shots
from starflow.errors import StarflowError
from starflow.media.frames import fit_frames, resample
from starflow.media.timing import EARLY


class OpenClip(Protocol):
    """A clip of which parts can be read.

    Attributes:
        name: for messages.
        captions: of the clip.
        fps: the rate that it is read at; 0 for an image.
        size: height and width in pixels.
        is_image: whether it is a picture.
    """

    name: str
    captions: Sequence[str]
    fps: float
    size: tuple[int, int]
    is_image: bool

    def check(self) -> None:
        """Decode the whole clip. Raises StarflowError if it is corrupt."""
        ...

    def shots(self) -> list[tuple[float, int]]:
        """The start of each shot, in seconds, and its number of frames."""
        ...

    def num_frames(self) -> int:
        """The length, found without decoding where the format of the file allows it."""
        ...

    def read(self, start: float, num_frames: int, size: tuple[int, int]) -> Clip:
        """At most `num_frames` frames from a time on, scaled and cropped to a size. A file is decoded no further.

        Raises StarflowError if it is corrupt or ends before `start`.
        """
        ...


@contextmanager
def open_clip(source: ClipSource, index: int, fps: float) -> Iterator[OpenClip]:
    """Clip number `index`, at `fps`; 0: at its own rate. Raises StarflowError if it cannot be read."""
    source, index = locate(source, index)
    if isinstance(source, FileSource):
        with source.open(index) as file:
            yield _InFile(file, fps or file.video.fps)
    else:
        yield _InMemory(source[index], fps, index)


class _InFile:
    def __init__(self, file: ClipFile, fps: float) -> None:
        self.video = file.video
        self.name, self.captions = file.name, file.captions
        self.size = file.video.height, file.video.width
        self.is_image = file.video.is_image
        self.fps = 0.0 if self.is_image else fps

    def check(self) -> None:
        self.video.scan()

    def shots(self) -> list[tuple[float, int]]:
        shown = (1 - EARLY) / self.video.fps  # how long a frame is shown, at least
        return [(start, ceil((last - start + shown) * self.fps)) for start, last in find_shots(self.video)]

    def num_frames(self) -> int:
        return 1 if self.is_image else self._frames_between(0.0, self.video.last_time())

    def read(self, start: float, num_frames: int, size: tuple[int, int]) -> Clip:
        frames = [frame.item for frame in self.video.frames(self.fps or None, size, num_frames, start)]
        if not frames:
            raise StarflowError(f"{self.name} ends before {start:.2f} s")
        return Clip(np.stack(frames), self.fps, self.captions, name=_name(self.name, start))

    def _frames_between(self, start: float, last: float) -> int:
        return 1 + max(0, ceil((last - start) * self.fps - 0.51))  # as `at_rate` counts them


class _InMemory:
    def __init__(self, clip: Clip, fps: float, index: int) -> None:
        self.name, self.captions = clip.name or f"clip {index}", clip.captions
        self.size = clip.video.shape[1], clip.video.shape[2]
        self.is_image = not clip.fps
        self.clip = clip if self.is_image or not fps or fps == clip.fps else _resampled(clip, fps)
        self.fps = self.clip.fps

    def check(self) -> None:
        pass  # it is decoded

    def shots(self) -> list[tuple[float, int]]:
        return [(0.0, self.num_frames())]

    def num_frames(self) -> int:
        return len(self.clip.video)

    def read(self, start: float, num_frames: int, size: tuple[int, int]) -> Clip:
        first = round(start * self.fps)
        video = fit_frames(self.clip.video[first : first + num_frames], *size)
        actions = None if self.clip.actions is None else self.clip.actions[first : first + num_frames]
        edits = () if start else self.clip.edits
        marks = None if self.clip.marks is None else _fit_marks(self.clip.marks[first : first + num_frames], size)
        name = _name(self.name, start)
        return replace(self.clip, video=video, actions=actions, edits=edits, marks=marks, name=name)


def _fit_marks(marks: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return fit_frames(np.repeat(marks[..., None], 3, axis=-1), *size)[..., 0]


def _resampled(clip: Clip, fps: float) -> Clip:
    if clip.actions is not None:
        raise StarflowError(f"{clip.name}: a clip with actions is not resampled: set the rate to {clip.fps:g} fps")
    edits = [replace(edit, video=resample(edit.video, clip.fps, fps)) for edit in clip.edits]
    marks = None if clip.marks is None else resample(clip.marks, clip.fps, fps)
    return replace(clip, video=resample(clip.video, clip.fps, fps), fps=fps, edits=edits, marks=marks)


def _name(name: str, start: float) -> str:
    return f"{name} from {start:.2f} s" if start else name
