"""Draw a toyworld scene: anti-aliased shapes from signed distances, all frames at once."""

import numpy as np
from numpy.typing import NDArray

from starflow.toyworld.world.scene import Scene, SceneObject, track
from starflow.toyworld.world.vocabulary import FRAME_SIZE, NUM_FRAMES

COLOR_VALUES = {
    "red": (235, 45, 40),
    "green": (45, 200, 75),
    "blue": (45, 95, 255),
    "yellow": (255, 215, 40),
    "purple": (180, 65, 235),
    "white": (245, 245, 245),
}
BACKGROUND_VALUES = {"black": (8, 8, 8), "charcoal": (34, 34, 34), "dark gray": (60, 60, 60), "gray": (86, 86, 86)}
EDGE_WIDTH = 1.5  # pixels from background to object
SQUARE_HALF_SIDE = 0.9  # in radii; gives the three shapes similar areas
TRIANGLE_HALF_SIDE = 1.2  # in radii; the bounding box is centered on the object's position

_CENTERS = np.arange(FRAME_SIZE, dtype=np.float32) + 0.5


def render(scene: Scene, num_frames: int = NUM_FRAMES) -> NDArray[np.uint8]:
    """The clip of a scene: (num_frames, 64, 64, 3) uint8, sRGB."""
    background = np.array(BACKGROUND_VALUES[scene.background], dtype=np.float32)
    clip = np.empty((num_frames, 3, FRAME_SIZE, FRAME_SIZE), dtype=np.float32)
    clip[:] = background[:, None, None]
    for item in scene.objects:
        covered = coverage(item, num_frames)
        for channel, value in enumerate(COLOR_VALUES[item.color]):
            plane = clip[:, channel]
            plane += covered * (np.float32(value) - plane)
    clip += 0.5
    return np.ascontiguousarray(clip.astype(np.uint8).transpose(0, 2, 3, 1))


def render_image(scene: Scene) -> NDArray[np.uint8]:
    """The first frame of a scene: (64, 64, 3) uint8, sRGB."""
    return render(scene, num_frames=1)[0]


def coverage(item: SceneObject, num_frames: int) -> NDArray[np.float32]:
    """The fraction of each pixel that the object covers: (num_frames, height, width)."""
    x, y, radius = track(item, num_frames).T[:, :, None, None]
    dx = _CENTERS[None, None, :] - x
    dy = _CENTERS[None, :, None] - y
    distance = _DISTANCES[item.shape](dx, dy, radius)
    distance *= -1 / EDGE_WIDTH
    distance += 0.5
    return np.clip(distance, 0, 1, out=distance)


Plane = NDArray[np.float32]


def _circle_distance(dx: Plane, dy: Plane, radius: Plane) -> Plane:
    squared = dx**2 + dy**2
    return np.sqrt(squared, out=squared) - radius


def _square_distance(dx: Plane, dy: Plane, radius: Plane) -> Plane:
    return np.maximum(np.abs(dx), np.abs(dy)) - SQUARE_HALF_SIDE * radius


def _triangle_distance(dx: Plane, dy: Plane, radius: Plane) -> Plane:
    # Equilateral, pointing up: the distance to the base, or to the right side (normal (√3, -1) / 2) mirrored by |dx|.
    half_height = np.float32(np.sqrt(3) / 2 * TRIANGLE_HALF_SIDE) * radius
    base = dy - half_height
    sides = np.float32(np.sqrt(3) / 2) * np.abs(dx) - 0.5 * (dy + half_height)
    return np.maximum(base, sides)


_DISTANCES = {"circle": _circle_distance, "square": _square_distance, "triangle": _triangle_distance}
