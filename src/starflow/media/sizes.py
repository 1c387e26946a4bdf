"""Sizes of videos: from a width and a height, or from an aspect ratio and an area."""

import re
from math import log, sqrt

from starflow.errors import UsageError

# The aspect ratios, width to height, that STARFlow-V was trained on, as written in its captions.
ASPECT_RATIOS = ("1:1", "2:3", "3:2", "16:9", "9:16", "4:5", "5:4", "21:9", "9:21")


def parse_size(size: str) -> tuple[int, int]:
    """`"848x480"` → width and height in pixels. Raises UsageError for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", size.strip())
    if found is None:
        raise UsageError(f"{size!r} is not a size: write WIDTHxHEIGHT in pixels, such as 848x480")
    return int(found[1]), int(found[2])


def parse_aspect_ratio(aspect_ratio: str) -> float:
    """`"16:9"` → width over height. Raises UsageError for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", aspect_ratio.strip())
    if found is None:
        raise UsageError(f"{aspect_ratio!r} is not an aspect ratio: write WIDTH:HEIGHT, such as 16:9")
    return int(found[1]) / int(found[2])


def size_of_aspect_ratio(aspect_ratio: str, side: float, multiple: int) -> tuple[int, int]:
    """Width and height of an aspect ratio at about the area `side²`, both multiples of `multiple` pixels.

    `width = round(side·sqrt(r)/multiple)·multiple`, `height = round(side/sqrt(r)/multiple)·multiple` (STARFlow-V, as
    released). `side` is 640 for the released video model: 848×480 at 16:9. Raises UsageError for a ratio so extreme
    that a side rounds to 0.
    """
    ratio = parse_aspect_ratio(aspect_ratio)
    width, height = (round(side * scale / multiple) * multiple for scale in (sqrt(ratio), 1 / sqrt(ratio)))
    if not width or not height:
        raise UsageError(f"an aspect ratio of {aspect_ratio} is too extreme: a side of the video would have no pixels")
    return width, height


def nearest_aspect_ratio(width: int, height: int) -> str:
    """The ratio of `ASPECT_RATIOS` that is nearest to that of a size, as written in captions."""
    return min(ASPECT_RATIOS, key=lambda name: abs(log(parse_aspect_ratio(name) * height / width)))
