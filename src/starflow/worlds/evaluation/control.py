"""Whether rollouts obey the player: actions and motion, read from frames by a network that learned from true frames.

The ceilings are the same readings of true frames, and of true frames through the autoencoder.

Legend: `n` clips, `F` frames, `A` components of an action.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starflow.evaluation.statistics import bootstrap, bootstrap_mean
from starflow.worlds.evaluation.action_reader import SEEN, Reading, motion, train_action_reader
from starflow.worlds.evaluation.clips import CONTEXT
from starflow.worlds.evaluation.material import Material, by_scenario
from starflow.worlds.game import Action

SMALL = {"sideways": 3.0, "turn_angle": 1.0}  # a tenth of full speed: the sign of a smaller motion does not count


def evaluate_control(material: Material) -> dict[str, Any]:
    """Read the frames after the context of each clip.

    Returns:
        `all` and each scenario, and there `true`, `autoencoder` and `rollout`: see `compare`.
    """
    clips = material.clips
    reader = train_action_reader(material.learned)
    begin = CONTEXT - SEEN + 1
    columns = {"true": clips.frames, "autoencoder": material.reconstructions, "rollout": material.rollouts}
    readings = {name: reader.read(frames[:, begin:]) for name, frames in columns.items()}
    exists = clips.exists[:, CONTEXT:]
    names = np.broadcast_to(clips.names[:, None], exists.shape)[exists]
    scenarios = np.broadcast_to(clips.scenarios[:, None], exists.shape)[exists]
    truth = Reading(clips.actions[:, CONTEXT:][exists], motion(clips.poses)[:, CONTEXT:][exists])

    def measure(rows: NDArray[np.intp]) -> dict[str, Any]:
        return {
            name: compare(reading.at(exists).at(rows), truth.at(rows), names[rows])
            for name, reading in readings.items()
        }

    return by_scenario(scenarios, measure)


def compare(read: Reading, truth: Reading, names: NDArray[np.str_]) -> dict[str, Any]:
    """Compare what was read with the truth.

    Args:
        read, truth: of `n` frames.
        names: of their episodes, `(n,)`.

    Returns:
        `move`, `turn` and `attack`: the share read right; `always` is that of the commonest choice; None if the player
        never does it. `sideways` and `turn_angle`: `median_error` in map units or degrees, and `right_sign`, the share
        of the frames with more than a small motion whose sign is right; None if there is none.
    """
    results: dict[str, Any] = {}
    for part, name in enumerate(Action._fields):
        results[name] = _shares(read.actions[:, part], truth.actions[:, part], names)
    for part, (name, small) in enumerate(SMALL.items()):
        results[name] = _motion(read.motion[:, part], truth.motion[:, part], names, small)
    return results


def _shares(read: NDArray[np.integer], truth: NDArray[np.integer], names: NDArray[np.str_]) -> dict[str, Any] | None:
    if not truth.any():
        return None
    right = read == truth
    return {
        "right": bootstrap_mean(right, names),
        "always": float(np.bincount(truth).max() / len(truth)),
    }


def _motion(
    read: NDArray[np.float32], truth: NDArray[np.float32], names: NDArray[np.str_], small: float
) -> dict[str, Any] | None:
    moving = np.abs(truth) > small
    if not moving.any():
        return None
    error, same = np.abs(read - truth), (np.sign(read) == np.sign(truth))[moving]
    return {
        "median_error": bootstrap(lambda rows: float(np.median(error[rows])), names),
        "right_sign": bootstrap_mean(same, names[moving]),
    }
