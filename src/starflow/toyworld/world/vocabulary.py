"""The names toyworld is made of, and the combinations of them that training never sees."""

COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "bounce", "orbit", "grow", "shrink", "still")
# Ordered from dark to light, so that "lighter" and "darker" mean the next name to the right or to the left.
BACKGROUNDS = ("black", "charcoal", "dark gray", "gray")

FRAME_SIZE = 64  # pixels, square
NUM_FRAMES = 17
LONG_FRAMES = 81  # of a clip that goes on, for training on windows of longer videos
FPS = 8

Combination = tuple[str, str, str]  # color, shape, motion


def _is_held_out(color: int, shape: int, motion: int) -> bool:
    # A Latin-square rule: each (color, shape) pair gives up one motion, and over the 18 pairs every motion is given up
    # twice. The first and the last pair give up none, which leaves 16 of the 162 combinations: a tenth.
    pair = len(SHAPES) * color + shape
    return 0 < pair < len(COLORS) * len(SHAPES) - 1 and motion == (color + 3 * shape) % len(MOTIONS)


HELD_OUT: frozenset[Combination] = frozenset(
    (color, shape, motion)
    for c, color in enumerate(COLORS)
    for s, shape in enumerate(SHAPES)
    for m, motion in enumerate(MOTIONS)
    if _is_held_out(c, s, m)
)
"""The (color, shape, motion) combinations that appear in the test split only."""

COMBINATIONS: dict[str, tuple[Combination, ...]] = {
    split: tuple(
        (color, shape, motion)
        for color in COLORS
        for shape in SHAPES
        for motion in MOTIONS
        if ((color, shape, motion) in HELD_OUT) == (split == "test")
    )
    for split in ("train", "test")
}
"""The combinations each split draws from, equally often."""
