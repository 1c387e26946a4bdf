"""From pixels to blobs: the regions that differ from a clip's background, and their colors.

This does not depend on the renderer. A pixel at an object's edge mixes the object's color with the background's. So its
difference from the background keeps its direction in RGB and only gets shorter: the direction gives the color, and the
length gives the fraction of the pixel that the object covers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starflow.toyworld.world.vocabulary import COLORS

# Typical sRGB colors of these names: bright, and saturated except for white.
REFERENCE_COLORS = np.array(
    [(230, 50, 50), (50, 200, 80), (60, 100, 250), (250, 210, 50), (170, 70, 230), (245, 245, 245)], dtype=np.float32
)
BRIGHTEST_BACKGROUND = 130  # largest channel of a background pixel; every color above is brighter
MIN_COVERAGE = 0.4  # of a pixel that counts as part of an object
MIN_AREA = 12  # px
MARGIN = 3  # px around a blob in which its soft edge is measured

_SQUARE = np.ones((1, 3, 3), dtype=bool)  # within one frame
_WITHIN_FRAME = np.zeros((3, 3, 3), dtype=bool)
_WITHIN_FRAME[1] = True


@dataclass(frozen=True)
class Blob:
    """One connected region of one color in one frame.

    `center` is (x, y) in px and `area` is in px², both measured with soft edges. `is_free` is True if no other blob
    touches this one and hides a part of its outline.

    Four moments describe the outline. `two_fold` is its elongation. `three_fold` is 1 for an equilateral triangle that
    points up, and `four_fold` is 1 for an axis-parallel square; each is 0 for the other shapes and a disc. They are
    complex: rotating a shape rotates their phase. `spread` is 1 for a disc and larger for less compact shapes.
    """

    frame: int
    color: str
    center: tuple[float, float]
    area: float
    is_free: bool
    two_fold: complex
    three_fold: complex
    four_fold: complex
    spread: float


def find_background(clip: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The background's color in each frame: (F, 3), the median of the dark pixels."""
    colors = []
    for frame in clip.reshape(len(clip), -1, 3):
        dark = frame[frame.max(axis=1) < BRIGHTEST_BACKGROUND]
        colors.append(np.median(dark if len(dark) else frame, axis=0))
    return np.array(colors, dtype=np.float32)


def find_blobs(clip: NDArray[np.uint8]) -> list[list[Blob]]:
    """The blobs of each frame of a clip (F, height, width, 3), the largest first."""
    coverage, colors = _coverage(clip)
    regions = [_regions(coverage, colors == color) for color in range(len(COLORS))]
    occupied = np.zeros(colors.shape, dtype=np.int32)  # the region of each pixel, numbered over all colors
    found: list[tuple[int, tuple[slice, ...]]] = []  # color, bounding box
    for color, labels in enumerate(regions):
        boxes = ndimage.find_objects(labels)
        occupied[labels > 0] = labels[labels > 0] + len(found)
        found += [(color, box) for box in boxes]
    frames: list[list[Blob]] = [[] for _ in clip]
    for number, (color, box) in enumerate(found, start=1):
        blob = _measure(coverage, occupied, number, COLORS[color], box)
        frames[blob.frame].append(blob)
    return [sorted(blobs, key=lambda blob: -blob.area) for blobs in frames]


def _coverage(clip: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The fraction of each pixel that is covered, about 0 to 1, and the index of its color: both (F, height, width)."""
    background = find_background(clip)
    difference = clip.astype(np.float32) - background[:, None, None]
    contrast = REFERENCE_COLORS - background[:, None]  # (F, colors, 3)
    length = np.linalg.norm(contrast, axis=-1)
    directions = contrast / length[..., None]
    along = np.einsum("fhwc,fkc->fkhw", difference, directions, optimize=True)
    colors = along.argmax(axis=1)
    full = length[np.arange(len(clip))[:, None, None], colors]
    return along.max(axis=1) / full, colors


def _regions(coverage: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the connected regions of one color in each frame that are large enough and contain a 3×3 square."""
    labels, count = ndimage.label(mask & (coverage > MIN_COVERAGE), structure=_WITHIN_FRAME)
    if not count:
        return labels
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    # The seam between two overlapping objects may look like a third color; it is too thin to contain a square.
    solid = np.zeros(count + 1, dtype=bool)
    solid[labels[ndimage.binary_erosion(labels > 0, structure=_SQUARE)]] = True
    keep = solid & (areas >= MIN_AREA)
    keep[0] = False
    return (np.cumsum(keep) * keep).astype(np.int32)[labels]


def _measure(
    coverage: NDArray[np.float32], occupied: NDArray[np.int32], number: int, color: str, box: tuple[slice, ...]
) -> Blob:
    frame = box[0].start
    rows, columns = (slice(max(side.start - MARGIN, 0), side.stop + MARGIN) for side in box[1:])
    nearby = occupied[frame, rows, columns]
    inside = nearby == number
    around = ndimage.distance_transform_edt(~inside) <= MARGIN
    values = coverage[frame, rows, columns]
    # The object's core defines full coverage, as it may be darker than the reference color.
    full = np.quantile(values[inside], 0.75)
    weights = np.where(around & (inside | (nearby == 0)), np.clip(values / full, 0, 1), 0)
    area = float(weights.sum())
    y, x = np.indices(weights.shape) + 0.5
    center_x, center_y = float((weights * x).sum() / area), float((weights * y).sum() / area)
    z = (x - center_x) + 1j * (center_y - y)
    # Σz², Σz³ and Σz⁴ are moments of harmonic functions, which blurring with a round kernel does not change: they
    # identify the shape even of a soft blob of a few pixels. An upright equilateral triangle has
    # Σz³ = -0.0675i area^(5/2), an axis-parallel square Σz⁴ = -area³/60, and a disc Σ|z|² = area²/2π.
    second, third, fourth = ((weights * z**n).sum() for n in (2, 3, 4))
    return Blob(
        frame=frame,
        color=color,
        center=(columns.start + center_x, rows.start + center_y),
        area=area,
        is_free=bool((nearby[around & ~inside] == 0).all()),
        two_fold=complex(second * 2 * np.pi / area**2),
        three_fold=complex(third * 1j / (0.0675 * area**2.5)),
        four_fold=complex(-fourth * 60 / area**3),
        spread=float((weights * abs(z) ** 2).sum() * 2 * np.pi / area**2),
    )
