"""Whether a minute of play keeps its sharpness and stays near what training showed, second by second.

Legend: `n` rollouts, `F` frames, `S` seconds.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate
from starflow.evaluation.metrics.sharpness import sharpness
from starflow.evaluation.statistics import bootstrap_mean
from starflow.worlds.evaluation.clips import CONTEXT, GameClips
from starflow.worlds.evaluation.material import Material
from starflow.worlds.game import FPS

PURPOSE = 22  # of noise
SECONDS = 60
NUM_SHOWN = 2


def evaluate_minutes(material: Material, num_rollouts: int) -> Measured:
    """Play `num_rollouts` minutes from the contexts of clips, with the actions of held-out episodes, one after another.

    Returns:
        `num_rollouts`; `seconds`; `rollout`: lists over the seconds of `sharpness`, as a share of white per pixel, and
        `distance` to the nearest training frame, in levels of 255 (see `Library.distances`); and `true`: the same two
        values of the held-out frames of the scenarios that are played.
    """
    clips = material.clips
    rows = np.unique(np.linspace(0, len(clips) - 1, num_rollouts).round().astype(int))
    num_frames = CONTEXT + round(SECONDS * FPS)
    played, _ = generate(
        material.pipeline,
        [clips.captions[row] for row in rows],
        material.settings,
        "minutes",
        purpose=PURPOSE,
        num_frames=num_frames,
        given={
            "extend": clips.frames[rows, :CONTEXT],
            "actions": np.stack([endless_actions(clips, row, num_frames) for row in rows]),
        },
    )
    generated = played[:, CONTEXT:]
    values = {
        "sharpness": np.stack([sharpness(frames) for frames in generated]),
        "distance": np.stack([material.library.distances(frames) for frames in generated]),
    }
    names = np.array([str(row) for row in rows])
    results = {
        "num_rollouts": len(rows),
        "seconds": SECONDS,
        "rollout": {
            name: [bootstrap_mean(second, names) for second in per_second(each)] for name, each in values.items()
        },
        "true": _true_values(material, np.isin(clips.scenarios, clips.scenarios[rows])),
    }
    shown = zip(rows[:NUM_SHOWN], generated, strict=False)
    return Measured(results, [Card(clips.captions[row], {"": frames}) for row, frames in shown])


def per_second(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Values of frames `(n, F)` → their means over each second, `S` times `(n,)`."""
    edges = np.round(np.arange(SECONDS + 1) * FPS).astype(int)
    return [values[:, start:stop].mean(axis=1) for start, stop in pairwise(edges)]


def endless_actions(clips: GameClips, row: int, num_frames: int) -> NDArray[np.uint8]:
    """The actions `(num_frames, A)` of the episode of a clip from its start on, then of others of the scenario."""
    same = [number for number in range(len(clips)) if clips.scenarios[number] == clips.scenarios[row]]
    place = same.index(row)
    following = [clips.episodes[number].actions[1:] for number in [*same[place + 1 :], *same[: place + 1]]]
    actions = np.concatenate([clips.episodes[row].actions[clips.starts[row] :], *following])
    return np.resize(actions, (num_frames, actions.shape[1]))


def _true_values(material: Material, rows: NDArray[np.bool_]) -> dict[str, Any]:
    clips = material.clips
    frames, names = clips.frames[rows][clips.exists[rows]], clips.names[rows]
    names = np.broadcast_to(names[:, None], clips.exists[rows].shape)[clips.exists[rows]]
    return {
        "sharpness": bootstrap_mean(sharpness(frames), names),
        "distance": bootstrap_mean(material.library.distances(frames), names),
    }
