"""From blobs to objects: follow each blob through the clip, and name its shape, size and motion."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from starflow.toyworld.reader.blobs import Blob
from starflow.toyworld.world.vocabulary import COLORS

MIN_PRESENCE = 0.6  # share of all frames in which an object must be seen
SIZE_BOUNDARY = 8.0  # px, radius of a disc with the object's area at the start
SHAPE_BOUNDARY = 0.4  # of Blob's moments; below 0.5, as blur lowers them all and raises none
MIN_AGREEMENT = 0.6  # share of the frames that must show the same shape
MAX_SPREAD = 1.6  # of Blob.spread; the triangle, the least compact shape, has 1.21
WHOLE = 0.8  # share of its median area above which a touched object counts as whole
RESIZE_RATIO = 1.35  # of last to first radius above which an object grows; below its inverse it shrinks
STILL_RANGE = 5.0  # px, largest range of the center of an object at rest
MIN_TRAVEL = 10.0  # px
MAX_STEP = 0.35  # share of the path in one frame; more is a jump
MIN_REBOUND = 5.0  # px
MIN_ORBIT_ANGLE = np.deg2rad(220)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrackedObject:
    """An object found in a clip.

    Attributes:
        color: one of `vocabulary.COLORS`.
        shape: one of `vocabulary.SHAPES`, or None if the outline is none of them.
        size: "small" or "large", at the start of the clip.
        motion: one of `vocabulary.MOTIONS`, or None if it is none of them or the clip is a single frame.
        centers: (F, 2), x and y in px, NaN in frames where the object is not seen.
        areas: (F,) in px², NaN where the object is not seen or partly hidden.
    """

    color: str
    shape: str | None
    size: str
    motion: str | None
    centers: Array
    areas: Array


def find_objects(frames: list[list[Blob]]) -> list[TrackedObject]:
    """The objects of a clip, the largest first, from the blobs of its frames."""
    objects = []
    for color in COLORS:
        own = [[blob for blob in blobs if blob.color == color] for blobs in frames]
        objects += [_describe(track, len(frames)) for track in _follow(own)]
    return sorted(objects, key=lambda item: -float(np.nanmean(item.areas)))


def _follow(frames: list[list[Blob]]) -> list[list[Blob]]:
    """Join blobs of one color into tracks. Their number is the median over the frames that have such blobs."""
    counts = [len(blobs) for blobs in frames if blobs]
    if len(counts) < MIN_PRESENCE * len(frames):
        return []
    num_tracks = int(np.median(counts))
    tracks: list[list[Blob]] = [[] for _ in range(num_tracks)]
    for blobs in frames:
        # Fewer blobs than tracks: two objects of one color touch, and their common blob belongs to neither.
        if len(blobs) < num_tracks:
            continue
        if not tracks[0]:
            order = range(num_tracks)
        else:
            cost = [[_mismatch(track, blob) for blob in blobs] for track in tracks]
            order = linear_sum_assignment(cost)[1]
        for track, index in zip(tracks, order, strict=True):
            track.append(blobs[index])
    return [track for track in tracks if len(track) >= MIN_PRESENCE * len(frames)]


def _mismatch(track: list[Blob], blob: Blob) -> float:
    last = track[-1]
    x, y = np.subtract(blob.center, last.center)
    # Two objects of one color differ in shape, which separates them where their paths cross.
    shape = abs(blob.three_fold - last.three_fold) + abs(blob.four_fold - last.four_fold)
    return float(np.hypot(x, y)) + 25 * min(shape, 2) + 10 * abs(float(np.log(blob.area / last.area)))


def _describe(track: list[Blob], num_frames: int) -> TrackedObject:
    free = [blob for blob in track if blob.is_free]
    if len(free) < 0.3 * len(track):
        free = track  # rarely seen whole: use all blobs
    centers, areas = np.full((num_frames, 2), np.nan), np.full(num_frames, np.nan)
    for blob in track:
        centers[blob.frame] = blob.center
    for blob in free:
        areas[blob.frame] = blob.area
    return TrackedObject(
        color=track[0].color,
        shape=_name_shape(free),
        size="small" if np.median(_radii(free)[:3]) < SIZE_BOUNDARY else "large",
        motion=_name_motion(track, free) if num_frames > 1 else None,
        centers=centers,
        areas=areas,
    )


def _name_shape(blobs: list[Blob]) -> str | None:
    largest = max(blob.area for blob in blobs)
    clear = [blob for blob in blobs if blob.area >= largest / 2]
    names = [_outline(blob) for blob in clear]
    name = max(set(names), key=names.count)
    return name if names.count(name) >= MIN_AGREEMENT * len(names) else None


def _outline(blob: Blob) -> str | None:
    if blob.spread > MAX_SPREAD or abs(blob.two_fold) > SHAPE_BOUNDARY:
        return None
    if blob.three_fold.real > SHAPE_BOUNDARY:
        return "triangle"
    if blob.four_fold.real > SHAPE_BOUNDARY:
        return "square"
    return "circle" if max(abs(blob.three_fold), abs(blob.four_fold)) < SHAPE_BOUNDARY else None


def _name_motion(track: list[Blob], free: list[Blob]) -> str | None:
    """Name the motion of a track; `free` are its blobs that no other blob touches."""
    if len(free) < 3:
        return None
    # A touched blob has no outline of its own, but its center is right if it is in front or almost whole.
    whole = WHOLE * float(np.median([blob.area for blob in free]))
    placed = [blob for blob in track if blob in free or blob.area >= whole]
    times, path = _times(placed), np.array([blob.center for blob in placed])
    growth = _growth(_times(free), _radii(free))
    extent = path.max(axis=0) - path.min(axis=0)
    if max(growth, 1 / growth) >= RESIZE_RATIO:
        if extent.max() > MIN_TRAVEL:
            return None
        return "grow" if growth > 1 else "shrink"
    if extent.max() <= STILL_RANGE:
        return "still"
    if _orbits(path, extent):
        return "orbit"
    axis = int(extent.argmax())
    if extent[axis] < MIN_TRAVEL or extent[1 - axis] > 0.4 * extent[axis]:
        return None
    along = path[:, axis]
    if axis == 1 and _rebounds(along):
        return "bounce"
    net = along[-1] - along[0]
    speeds = np.abs(np.diff(along) / np.diff(times))
    if abs(net) < 0.85 * extent[axis] or speeds.max() > MAX_STEP * extent[axis]:
        return None
    return (("left", "right"), ("up", "down"))[axis][int(net > 0)]


def _times(blobs: list[Blob]) -> Array:
    return np.array([blob.frame for blob in blobs], dtype=np.float64)


def _radii(blobs: list[Blob]) -> Array:
    return np.sqrt([blob.area / np.pi for blob in blobs])


def _growth(times: Array, radii: Array) -> float:
    """Last over first radius, on a line fitted to the radii (Theil-Sen: the median of all slopes)."""
    i, j = np.triu_indices(len(times), k=1)
    slope = np.median((radii[j] - radii[i]) / (times[j] - times[i]))
    start = np.median(radii - slope * (times - times[0]))
    end = start + slope * (times[-1] - times[0])
    return float(max(end, 1e-3) / max(start, 1e-3))


def _orbits(path: Array, extent: Array) -> bool:
    """Whether a path goes most of the way around a circle (Kåsa's least-squares fit)."""
    if extent.min() < MIN_TRAVEL or extent.max() > 2 * extent.min():
        return False
    design = np.column_stack([path, np.ones(len(path))])
    solution, *_ = np.linalg.lstsq(design, (path**2).sum(axis=1), rcond=None)
    spokes = path - solution[:2] / 2
    radii = np.hypot(*spokes.T)
    angles = np.unwrap(np.arctan2(spokes[:, 1], spokes[:, 0]))
    return bool(np.ptp(angles) >= MIN_ORBIT_ANGLE and radii.std() < 0.2 * radii.mean())


def _rebounds(y: Array) -> bool:
    """Whether an object falls and then visibly rises again; y grows downwards."""
    lowest_so_far = np.maximum.accumulate(y)
    fallen = lowest_so_far - y[0]
    rebound = lowest_so_far - y
    return bool(((fallen >= MIN_TRAVEL) & (rebound >= MIN_REBOUND)).any())
