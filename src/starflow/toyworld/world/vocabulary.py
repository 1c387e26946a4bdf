"""The names that toyworld uses, and the combinations of them that training never sees."""

COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "bounce", "orbit", "grow", "shrink", "still")
# From dark to light: "lighter" means the next name and "darker" the previous one.
BACKGROUNDS = ("black", "charcoal", "dark gray", "gray")

FRAME_SIZE = 64  # pixels, square
NUM_FRAMES = 17
LONG_FRAMES = 81  # of a long clip, for training on parts of longer videos
FPS = 8

Combination = tuple[str, str, str]  # color, shape, motion


def _is_held_out(color: int, shape: int, motion: int) -> bool:
    # A Latin-square rule: one motion of each of the 18 (color, shape) pairs, so that every motion is chosen twice. The
    # first and the last pair are exempt, which leaves 16 of the 162 combinations: a tenth.
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
"""The combinations of each split, all equally likely."""
