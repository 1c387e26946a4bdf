"""What training and evaluation see of data: captioned clips, from any source.

Legend: `F` video frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from starflow.media.frames import Frames


@dataclass(frozen=True)
class Edit:
    """An instruction, and what the clip becomes by it: uint8 `(F, height, width, 3)`, no longer than the clip."""

    instruction: str
    video: Frames


@dataclass(frozen=True)
class Clip:
    """A captioned clip or image.

    Attributes:
        video: uint8 `(F, height, width, 3)`, RGB.
        fps: frames per second; 0 for an image.
        captions: one or several, which say the same in other words.
        image_captions: captions of the first frame alone; `captions` if there are none.
        edits: what the clip becomes by instructions.
        name: what messages call the clip, such as its file.
    """

    video: Frames
    fps: float
    captions: Sequence[str]
    image_captions: Sequence[str] = ()
    edits: Sequence[Edit] = ()
    name: str = ""


class ClipSource(Protocol):
    """A sequence of clips: the same index gives the same clip every time.

    A source is a dataclass whose fields are the arguments that a config gives it (`starflow.data.sources`).
    """

    @property
    def fingerprint(self) -> str:
        """A text that differs between sources with different clips: latents that were made from another are stale."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """Clip number `index`. Raises StarflowError, which names the clip, if it cannot be read."""
        ...


@runtime_checkable
class FittingSource(Protocol):
    """A source that can read a clip at the size and rate wanted, in memory that does not grow with its file's size."""

    def fitted(self, index: int, height: int, width: int, fps: float, max_frames: int | None = None) -> Clip:
        """Clip number `index`, scaled and cropped to a size, at `fps` (0: its own), with at most `max_frames` frames.

        Raises StarflowError, which names the clip, if it cannot be read.
        """
        ...


def read_fitted(
    source: ClipSource, index: int, height: int, width: int, fps: float, max_frames: int | None = None
) -> Clip:
    """Clip number `index`, at the size and rate wanted if the source can read it so, or else as it is."""
    if isinstance(source, FittingSource):
        return source.fitted(index, height, width, fps, max_frames)
    return source[index]
