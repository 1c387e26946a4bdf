"""Check which attributes of a caption hold in a clip, from its pixels alone.

`blobs` segments by color, `tracks` finds objects and their motions, and this module compares them with the caption.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from starflow.toyworld.reader.blobs import find_background, find_blobs
from starflow.toyworld.reader.tracks import TrackedObject, find_objects
from starflow.toyworld.world.captions import parse
from starflow.toyworld.world.grammar import Description, ObjectDescription
from starflow.toyworld.world.vocabulary import BACKGROUNDS

ATTRIBUTES = ("color", "shape", "size", "motion")
# Gray values (0 to 255) that separate the backgrounds.
SHADE_BOUNDARIES = (21, 47, 73)


@dataclass(frozen=True)
class ObjectCheck:
    """One object of a caption, and the object found for it in the clip, or None.

    Each attribute is True if it holds, False if it does not, and None if the caption does not mention it.
    """

    description: ObjectDescription
    found: TrackedObject | None
    color: bool | None
    shape: bool | None
    size: bool | None
    motion: bool | None


@dataclass(frozen=True)
class CheckResult:
    """Whether a caption holds.

    Attributes:
        objects: one check per object, in the caption's order.
        count: whether the clip shows as many objects as the caption names.
        background: whether the background is right; None if the caption does not mention it.
    """

    objects: tuple[ObjectCheck, ...]
    count: bool
    background: bool | None

    @property
    def all_correct(self) -> bool:
        """Whether everything that the caption says holds, and the clip shows no other object."""
        attributes = [getattr(item, name) for item in self.objects for name in ATTRIBUTES]
        return self.count and self.background is not False and False not in attributes


def describe(clip: NDArray[np.uint8]) -> list[TrackedObject]:
    """Find the objects of a clip (F, height, width, 3) uint8, the largest first.

    Raises:
        ValueError: the array is not a clip.
    """
    _require_clip(clip)
    return find_objects(find_blobs(clip))


def name_background(clip: NDArray[np.uint8]) -> str:
    """The name of a clip's background, from its median shade."""
    _require_clip(clip)
    shade = float(np.median(find_background(clip)))
    return BACKGROUNDS[int(np.searchsorted(SHADE_BOUNDARIES, shade))]


def check(clip: NDArray[np.uint8], caption: str | Description) -> CheckResult:
    """Compare a clip (F, height, width, 3) uint8 with a caption.

    The objects found are matched to those of the caption so that as many attributes as possible agree.

    Raises:
        StarflowError: the caption is outside the grammar.
        ValueError: the array is not a clip.
    """
    description = parse(caption) if isinstance(caption, str) else caption
    found = describe(clip)
    matches: list[TrackedObject | None] = [None] * len(description.objects)
    score = [[_agreement(said, seen) for seen in found] for said in description.objects]
    if found:
        for said, seen in zip(*linear_sum_assignment(score, maximize=True), strict=True):
            matches[said] = found[seen]
    shade = description.background
    return CheckResult(
        objects=tuple(_compare(said, seen) for said, seen in zip(description.objects, matches, strict=True)),
        count=len(found) == len(description.objects),
        background=None if shade is None else shade == name_background(clip),
    )


def _agreement(said: ObjectDescription, seen: TrackedObject) -> int:
    return sum(getattr(said, name) == getattr(seen, name) for name in ATTRIBUTES)


def _compare(said: ObjectDescription, seen: TrackedObject | None) -> ObjectCheck:
    judged = {
        name: None if getattr(said, name) is None else seen is not None and getattr(said, name) == getattr(seen, name)
        for name in ATTRIBUTES
    }
    return ObjectCheck(description=said, found=seen, **judged)


def _require_clip(clip: NDArray[np.uint8]) -> None:
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
        raise ValueError(f"a clip is uint8 of shape (frames, height, width, 3), not {clip.dtype} of {clip.shape}")
