"""The object in each cell of a scene's first frame: the labels for grounding."""

import numpy as np
from numpy.typing import NDArray

from starflow.toyworld.world.render import coverage
from starflow.toyworld.world.scene import Scene
from starflow.toyworld.world.vocabulary import COLORS, MOTIONS, SHAPES

ATTRIBUTES = {"color": COLORS, "shape": SHAPES, "motion": MOTIONS}
NOTHING = -1
MIN_COVERED = 0.1  # share of a cell that an object must cover to be its label


def ground(scene: Scene, num_rows: int, num_columns: int) -> NDArray[np.int8]:
    """Indices `(3, rows, columns)` into each of `ATTRIBUTES`, for the object that covers most of each cell.

    `NOTHING` in cells of which no object covers `MIN_COVERED`.
    """
    covered: list[NDArray[np.float32]] = []
    for item in scene.objects:
        (pixels,) = coverage(item, num_frames=1)
        for earlier in covered:
            earlier *= 1 - pixels
        covered.append(pixels)
    height, width = covered[0].shape
    cells = np.stack(covered).reshape(-1, num_rows, height // num_rows, num_columns, width // num_columns)
    share = cells.mean(axis=(2, 4))
    owner, is_object = share.argmax(axis=0), share.max(axis=0) >= MIN_COVERED
    names = [[values.index(getattr(item, name)) for item in scene.objects] for name, values in ATTRIBUTES.items()]
    return np.where(is_object, np.array(names)[:, owner], NOTHING).astype(np.int8, order="C")
