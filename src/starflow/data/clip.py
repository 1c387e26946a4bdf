"""Captioned clips from any source, for training and evaluation.

Legend: `F` video frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from starflow.media.frames import Frames


@dataclass(frozen=True)
class Edit:
    """An instruction, and the edited clip: uint8 `(F, height, width, 3)`, at most as long as the clip."""

    instruction: str
    video: Frames


@dataclass(frozen=True)
class Clip:
    """A captioned clip or image.

    Attributes:
        video: uint8 `(F, height, width, 3)`, RGB.
        fps: frames per second; 0 for an image.
        captions: one caption or several paraphrases.
        image_captions: captions of the first frame; if there are none, `captions` are used.
        edits: instructions, and the clip after each.
        name: of the clip in messages, such as its file.
    """

    video: Frames
    fps: float
    captions: Sequence[str]
    image_captions: Sequence[str] = ()
    edits: Sequence[Edit] = ()
    name: str = ""


class ClipSource(Protocol):
    """A sequence of clips. An index always gives the same clip.

    A source is a dataclass. Its fields are its arguments in a config (`starflow.data.sources`).
    """

    @property
    def fingerprint(self) -> str:
        """A text that identifies the clips. A latent cache of a source with another fingerprint is stale."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """Clip number `index`. Raises StarflowError with the name of the clip if it cannot be read."""
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
