"""Pairs of short clips, one true and one of the model, for people to tell apart."""

from typing import Any

import numpy as np

from starflow.evaluation.contract import Card, Measured
from starflow.worlds.evaluation.clips import CONTEXT
from starflow.worlds.evaluation.material import Material
from starflow.worlds.game import FPS

NUM_PAIRS = 20
NUM_FRAMES = round(2 * FPS)  # 2 seconds


def make_pairs(material: Material) -> Measured:
    """At most `NUM_PAIRS` pairs of 2 seconds with the same start and actions, in random order.

    Returns:
        The key: for each pair, which of `A` and `B` is `generated`, and the `episode` and `start` of the clip. The
        cards show the pairs.
    """
    clips = material.clips
    rng = np.random.default_rng(material.settings.seed)
    long_enough = np.flatnonzero(clips.exists[:, CONTEXT + NUM_FRAMES - 1])
    key: list[dict[str, Any]] = []
    cards = []
    for row in rng.permutation(long_enough)[:NUM_PAIRS]:
        span = slice(CONTEXT, CONTEXT + NUM_FRAMES)
        pair = [material.rollouts[row, span], clips.frames[row, span]]
        place = int(rng.integers(2))  # of the generated clip
        key.append({"generated": "AB"[place], "episode": str(clips.names[row]), "start": clips.starts[row] + CONTEXT})
        cards.append(Card(f"pair {len(key)}", {"A": pair[place], "B": pair[1 - place]}))
    return Measured({"num_pairs": len(key), "key": key}, cards)
