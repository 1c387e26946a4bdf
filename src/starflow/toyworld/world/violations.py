"""Clips with an impossible event, which a model of toyworld should find surprising.

A clip follows its scene up to some frame and violates it from there on. Each frame is rendered as a scene of its own,
without motion.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from starflow.toyworld.world.render import render_image
from starflow.toyworld.world.scene import REACH, Scene, SceneObject, Split, sample_scene, track
from starflow.toyworld.world.vocabulary import COLORS, FRAME_SIZE, NUM_FRAMES

Violation = Literal["jump", "recolor", "vanish", "fall through the floor"]
VIOLATIONS: tuple[Violation, ...] = get_args(Violation)

FIRST_FRAME, LAST_FRAME = 3, NUM_FRAMES - 3  # so that there are frames before and after the event
MIN_JUMP = 18.0  # pixels
MIN_DEPTH = 2.0  # pixels below the floor

Track = NDArray[np.float32]


@dataclass(frozen=True)
class PlantedViolation:
    """A scene of one object, and a clip `(F, 64, 64, 3)` uint8, sRGB, that violates it from `frame` on."""

    scene: Scene
    frames: NDArray[np.uint8]
    frame: int


def plant(kind: Violation, rng: np.random.Generator, split: Split) -> PlantedViolation:
    """Draw a scene of one object, and let it jump, change color, vanish, or fall through the floor."""
    scene = sample_scene(rng, split=split, num_objects=1)
    while kind == "fall through the floor" and scene.objects[0].motion != "bounce":
        scene = sample_scene(rng, split=split, num_objects=1)
    (item,) = scene.objects
    path = track(item)
    frame = int(rng.integers(FIRST_FRAME, LAST_FRAME + 1))
    colors = [item.color] * NUM_FRAMES
    visible = NUM_FRAMES
    if kind == "jump":
        path[frame:, :2] += _jump(path[frame:], rng)
    elif kind == "recolor":
        others = [color for color in COLORS if color != item.color]
        colors[frame:] = [others[rng.integers(len(others))]] * (NUM_FRAMES - frame)
    elif kind == "vanish":
        visible = frame
    else:
        frame = _fall_through(item, path)
    pictures = [
        render_image(Scene((_still(item, where, color),) if index < visible else (), scene.background))
        for index, (where, color) in enumerate(zip(path, colors, strict=True))
    ]
    return PlantedViolation(scene, np.stack(pictures), frame)


def _jump(path: Track, rng: np.random.Generator) -> NDArray[np.float64]:
    """A displacement of at least `MIN_JUMP` pixels, or of nearly the most that keeps `path` `(f, 3)` in the frame."""
    margin = REACH * path[:, 2:]
    low, high = (margin - path[:, :2]).max(axis=0), (FRAME_SIZE - margin - path[:, :2]).min(axis=0)
    corners = np.array([(x, y) for x in (low[0], high[0]) for y in (low[1], high[1])])
    farthest = corners[np.hypot(*corners.T).argmax()]
    while True:
        step = rng.uniform(low, high)
        if np.hypot(*step) >= min(MIN_JUMP, 0.9 * np.hypot(*farthest)):
            return step


def _fall_through(item: SceneObject, path: Track) -> int:
    """Change a bouncing object's `path` `(F, 3)` to fall through the floor; return the first frame that shows it."""
    time = np.arange(len(path))
    fall = item.y + 0.5 * item.rate * time**2
    frame = int(np.argmax(fall > FRAME_SIZE - REACH * item.radius + MIN_DEPTH))
    path[frame:, 1] = fall[frame:]
    return frame


def _still(item: SceneObject, where: NDArray[np.float32], color: str) -> SceneObject:
    x, y, radius = map(float, where)
    return replace(item, motion="still", color=color, x=x, y=y, radius=radius)
