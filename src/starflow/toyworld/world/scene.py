"""Toyworld scenes: the objects of a clip and how they move, sampled from a seed.

Lengths are in pixels and times in frames. x grows to the right and y downwards; the frame spans 0 to 64 on both axes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from starflow.toyworld.world.vocabulary import BACKGROUNDS, COMBINATIONS, FRAME_SIZE, NUM_FRAMES, SIZES

Split = Literal["train", "test"]

SINGLE_OBJECT_PROBABILITY: dict[Split, float] = {"train": 0.35, "test": 0.65}  # training has more of the harder scenes
# Half the width of the widest shape, in radii. Objects of every shape stop, bounce and turn at this distance from the
# edges, so that changing the shape does not change the motion.
REACH = 1.2
RESTITUTION = 0.85
MIN_TRAVEL_FRAMES = 11
MIN_GAP = 1.5  # px between the bounding boxes of two objects that count as apart
MIN_APART = 2 / 3  # share of the frames in which two objects are apart
OVERLAP_PROBABILITY = 0.5  # of preferring a placement in which one object hides a part of the other
PLACEMENT_TRIES = 40
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
# Radius in the first frame. The ranges for growing and shrinking keep objects clearly visible in all frames.
RADII = {
    ("small", "grow"): (6.2, 7.0),
    ("large", "grow"): (9.5, 10.5),
    ("small", "shrink"): (6.8, 7.4),
    ("large", "shrink"): (11.5, 13.0),
    "small": (6.5, 7.5),
    "large": (10.0, 12.0),
}


@dataclass(frozen=True)
class SceneObject:
    """One object: its names, and the physical parameters of its motion.

    Attributes:
        color, shape, size, motion: names of `vocabulary`.
        x, y, radius: at frame 0.
        rate: speed in px/frame (left, right, up, down), gravity in px/frame² (bounce), angular velocity in rad/frame,
            clockwise positive (orbit), signed relative change of the radius per frame (grow, shrink), or 0 (still).
        orbit_radius, phase: radius of the orbit, and the angle in rad at which it starts.
    """

    color: str
    shape: str
    size: str
    motion: str
    x: float
    y: float
    radius: float
    rate: float = 0.0
    orbit_radius: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A plain background, and objects ordered from far to near: each object hides those before it."""

    objects: tuple[SceneObject, ...]
    background: str


def track(item: SceneObject, num_frames: int = NUM_FRAMES) -> NDArray[np.float32]:
    """x, y and radius of an object in each frame: (num_frames, 3)."""
    time = np.arange(num_frames, dtype=np.float32)
    result = np.empty((num_frames, 3), dtype=np.float32)
    result[:] = item.x, item.y, item.radius
    margin = REACH * item.radius
    if item.motion in DIRECTIONS:
        dx, dy = DIRECTIONS[item.motion]
        result[:, 0] += dx * item.rate * time
        result[:, 1] += dy * item.rate * time
        np.clip(result[:, :2], margin, FRAME_SIZE - margin, out=result[:, :2])
    elif item.motion == "bounce":
        floor = FRAME_SIZE - margin
        result[:, 1] = floor - _bounce_heights(floor - item.y, item.rate, time)
    elif item.motion == "orbit":
        angle = item.phase + item.rate * time
        result[:, 0] += item.orbit_radius * (np.cos(angle) - np.cos(item.phase))
        result[:, 1] += item.orbit_radius * (np.sin(angle) - np.sin(item.phase))
    elif item.motion in ("grow", "shrink"):
        # The change ends after `NUM_FRAMES`, so that in longer clips the object neither fills the frame nor vanishes.
        result[:, 2] *= 1 + item.rate * np.minimum(time, NUM_FRAMES - 1)
    return result


def _bounce_heights(drop: float, gravity: float, time: NDArray[np.float32]) -> NDArray[np.float32]:
    """Height above the floor of a body dropped from height `drop`; each bounce keeps `RESTITUTION` of the speed."""
    fall = np.sqrt(2 * drop / gravity)
    heights = drop - 0.5 * gravity * time**2
    start, speed = fall, RESTITUTION * gravity * fall
    while start < time[-1]:
        flight = 2 * speed / gravity
        if flight < 1:  # shorter than a frame: at rest
            return np.where(time >= start, 0, heights).astype(np.float32)
        since = time - start
        heights = np.where(since >= 0, speed * since - 0.5 * gravity * since**2, heights)
        start, speed = start + flight, RESTITUTION * speed
    return heights.astype(np.float32)


def scene_at(seed: int, index: int, split: Split) -> Scene:
    """Scene number `index` of the endless sequence of scenes of `seed`; no other scene is computed."""
    return sample_scene(np.random.default_rng([seed, index, int(split == "test")]), split=split)


def sample_scene(rng: np.random.Generator, *, split: Split, num_objects: int | None = None) -> Scene:
    """Draw a scene whose objects all come from the combinations of `split`.

    If `num_objects` is None, 35% of the training scenes and 65% of the test scenes have one object. Two objects differ
    in color or shape, and are apart in the first frame and in at least two thirds of all frames. In about an eighth of
    the scenes of two objects, one hides a part of the other.

    Raises:
        ValueError: `num_objects` is neither 1, 2 nor None.
    """
    if num_objects is None:
        num_objects = 1 if rng.random() < SINGLE_OBJECT_PROBABILITY[split] else 2
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    if num_objects == 1:
        return Scene((sample_object(rng, split),), background)
    if num_objects == 2:
        return Scene(_sample_pair(rng, split), background)
    raise ValueError(f"a scene has one or two objects, not {num_objects}")


def sample_object(rng: np.random.Generator, split: Split) -> SceneObject:
    """Draw an object from the combinations of `split`, with a random position."""
    return _place(rng, *_sample_names(rng, split))


def _sample_pair(rng: np.random.Generator, split: Split) -> tuple[SceneObject, SceneObject]:
    wants_overlap = rng.random() < OVERLAP_PROBABILITY
    pair = None
    while pair is None:
        names = _sample_names(rng, split), _sample_names(rng, split)
        # Several tries for the same names: otherwise pairs that are hard to place would be rare.
        for _ in range(PLACEMENT_TRIES):
            first, second = _place(rng, *names[0]), _place(rng, *names[1])
            apart, overlap = _encounter(first, second)
            if apart:
                pair = first, second
                if overlap or not wants_overlap:
                    break
    return pair


def _encounter(first: SceneObject, second: SceneObject) -> tuple[bool, bool]:
    """Whether two objects differ and are apart as `sample_scene` promises, and whether one ever hides the other."""
    if (first.color, first.shape) == (second.color, second.shape):
        return False, False
    one, two = track(first), track(second)
    between, radii = np.abs(one[:, :2] - two[:, :2]), one[:, 2] + two[:, 2]
    apart = between.max(axis=1) > REACH * radii + MIN_GAP  # of the bounding boxes
    overlap = np.hypot(*between.T) < 0.9 * radii
    return bool(apart[0]) and float(apart.mean()) >= MIN_APART, bool(overlap.any())


def _sample_names(rng: np.random.Generator, split: Split) -> tuple[str, str, str, str]:
    combinations = COMBINATIONS[split]
    return *combinations[rng.integers(len(combinations))], SIZES[rng.integers(len(SIZES))]


def _place(rng: np.random.Generator, color: str, shape: str, motion: str, size: str) -> SceneObject:
    radius = rng.uniform(*RADII.get((size, motion), RADII[size]))
    margin = REACH * radius
    room = FRAME_SIZE - 2 * margin
    u, v = rng.random(2)  # position within the free room, 0 to 1
    rate, orbit_radius, phase = 0.0, 0.0, 0.0
    if motion in DIRECTIONS:
        # Start in the quarter opposite to the direction, and do not reach the edge before frame 11.
        dx, dy = DIRECTIONS[motion]
        u, v = (_start(dx, u), v) if dx else (u, _start(dy, v))
        travel = room * ((1 - u if dx > 0 else u) if dx else (1 - v if dy > 0 else v))
        rate = rng.uniform(1.5, min(3.0, travel / MIN_TRAVEL_FRAMES))
    elif motion == "bounce":
        v *= 0.3
        rate = rng.uniform(1.8, 3.0)
    elif motion == "orbit":
        orbit_radius = rng.uniform(10.0, min(14.0, room / 2))
        phase = rng.uniform(0, 2 * np.pi)
        turns = rng.uniform(0.8, 1.25)
        rate = 2 * np.pi * turns / (NUM_FRAMES - 1) * (1 if rng.random() < 0.5 else -1)
        u = (orbit_radius * (1 + np.cos(phase)) + (room - 2 * orbit_radius) * u) / room
        v = (orbit_radius * (1 + np.sin(phase)) + (room - 2 * orbit_radius) * v) / room
    elif motion == "grow":
        factor = rng.uniform(1.8, 2.1)
        rate = (factor - 1) / (NUM_FRAMES - 1)
        margin *= factor
        room = FRAME_SIZE - 2 * margin
    elif motion == "shrink":
        rate = (1 / rng.uniform(1.8, 2.1) - 1) / (NUM_FRAMES - 1)
    return SceneObject(
        color=color,
        shape=shape,
        size=size,
        motion=motion,
        x=float(margin + u * room),
        y=float(margin + v * room),
        radius=float(radius),
        rate=float(rate),
        orbit_radius=float(orbit_radius),
        phase=float(phase),
    )


def _start(direction: float, u: float) -> float:
    return 0.25 * u if direction > 0 else 1 - 0.25 * u
