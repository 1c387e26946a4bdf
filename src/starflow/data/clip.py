"""Captioned clips from any source, for training and evaluation.

Legend: `F` video frames, `A` components of an action.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace
from starflow.media.frames import Frames
from starflow.media.reading import Video


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
        actions: `(F, A)`, what the player did between the frame before and each frame, in the `action_space` of the
            source; the first row is ignored. None for a clip without a player.
        marks: uint8 `(F, height, width)`, the share of each pixel that something small but important covers, such as a
            monster; 255 is all of it. An autoencoder may give such pixels a larger weight in its loss.
    """

    video: Frames
    fps: float
    captions: Sequence[str]
    image_captions: Sequence[str] = ()
    edits: Sequence[Edit] = ()
    name: str = ""
    actions: NDArray[Any] | None = None
    marks: NDArray[np.uint8] | None = None


class ClipSource(Protocol):
    """A sequence of clips. An index always gives the same clip.

    A source is a dataclass. Its fields are its arguments in a config (`starflow.data.sources`). It may have an
    attribute `left_out`, a list of lines that name what is no part of it, each with the reason, and an attribute
    `action_space`, of the actions of its clips.
    """

    @property
    def fingerprint(self) -> str:
        """A text that identifies the clips."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """Clip number `index`. Raises StarflowError with the name of the clip if it cannot be read."""
        ...


@dataclass(frozen=True)
class ClipFile:
    """A captioned file that is not decoded yet. `name` is that of the file in messages."""

    video: Video
    captions: Sequence[str]
    name: str


@runtime_checkable
class FileSource(Protocol):
    """A source of files: clips are decoded at the size, the rate and the place that are wanted, and no further."""

    def open(self, index: int) -> AbstractContextManager[ClipFile]:
        """File number `index`, which can be decoded inside the context.

        Raises StarflowError, which names the file, if it cannot be read.
        """
        ...

    def identity(self, index: int) -> str:
        """A digest of the file and its captions. Latents of a file with another identity are stale."""
        ...


class Share(NamedTuple):
    """Some of the clips of a source, and how often they are drawn.

    `weight` is the share of all of them together; None: each counts as `repeats` clips.
    """

    indices: range
    weight: float | None = None
    repeats: float = 1.0

    def clip_weight(self, number: int) -> float:
        """The weight of each of `number` clips of the share."""
        return self.repeats if self.weight is None else self.weight / max(1, number)


@runtime_checkable
class SharedSource(Protocol):
    """A source that consists of others, whose clips are not equally frequent."""

    @property
    def shares(self) -> Sequence[Share]:
        """The shares, which together have all indices in order."""
        ...

    def locate(self, index: int) -> tuple[ClipSource, int]:
        """The source of clip `index`, and the number of the clip there."""
        ...


def locate(source: ClipSource, index: int) -> tuple[ClipSource, int]:
    """The source that clip `index` comes from, and the number of the clip there."""
    return locate(*source.locate(index)) if isinstance(source, SharedSource) else (source, index)


def clip_identity(source: ClipSource, index: int) -> str:
    """A text that identifies clip `index`: it changes when the clip or its captions change."""
    source, index = locate(source, index)
    if isinstance(source, FileSource):
        return source.identity(index)
    return f"{source.fingerprint} {index}"


def left_out(source: ClipSource) -> list[str]:
    """What is no part of a source though it lies there, each with the reason."""
    return list(getattr(source, "left_out", ()))


def action_space(source: ClipSource) -> ActionSpace | None:
    """The space of the actions of a source's clips; None if they have none.

    Raises UsageError if the parts of a source have different spaces.
    """
    if not isinstance(source, SharedSource):
        return getattr(source, "action_space", None)
    parts = [source.locate(share.indices.start)[0] for share in source.shares if share.indices]
    spaces = {space for part in parts if (space := action_space(part)) is not None}
    if len(spaces) > 1:
        raise UsageError(f"the sources of a mixture must have the same actions, not {spaces}")
    return next(iter(spaces), None)
