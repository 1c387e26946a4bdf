"""Whether the monsters of rollouts are where they would be, according to a detector that learned from true frames.

Legend: `n` clips, `F` frames, `c` rows and columns of cells.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starflow.evaluation.statistics import bootstrap
from starflow.worlds.evaluation.clips import CONTEXT
from starflow.worlds.evaluation.detector import CELL, cells, train_detector
from starflow.worlds.evaluation.material import Material, by_scenario

SPANS = {"frames 1 to 8": slice(0, 8), "frames 9 to 32": slice(8, 32)}  # after the context


def evaluate_monsters(material: Material) -> dict[str, Any]:
    """Find monsters in the frames after the context of each clip, and compare with the game's own labels.

    Returns:
        `all` and each scenario, there each of `SPANS`, and there `true` (the detector's ceiling), `autoencoder`,
        `rollout` and `repeated` (the last true frame): see `compare`.
    """
    clips = material.clips
    detector = train_detector(material.learned)
    found = {
        "true": detector.find(clips.frames[:, CONTEXT:]),
        "autoencoder": detector.find(material.reconstructions[:, CONTEXT:]),
        "rollout": detector.find(material.rollouts[:, CONTEXT:]),
    }
    last = detector.find(clips.frames[:, CONTEXT - 1 : CONTEXT])
    found["repeated"] = np.broadcast_to(last, found["true"].shape)
    truth, exists = cells(clips.monsters[:, CONTEXT:]), clips.exists[:, CONTEXT:]

    def measure(rows: NDArray[np.intp]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for title, span in SPANS.items():
            there = exists[rows, span]
            names = np.broadcast_to(clips.names[rows, None], there.shape)[there]
            results[title] = {
                name: compare(each[rows, span][there], truth[rows, span][there], names) for name, each in found.items()
            }
        return results

    return by_scenario(clips.scenarios, measure)


def compare(found: NDArray[np.bool_], truth: NDArray[np.bool_], names: NDArray[np.str_]) -> dict[str, Any]:
    """Compare cells with monsters.

    Args:
        found, truth: `(n, c, c)`.
        names: of the episodes, `(n,)`.

    Returns:
        `precision` and `recall` of cells; `place_error`, the median distance in pixels between the centres of what was
        found and of the truth, in frames with both; and `size_ratio`, the number of cells found for one of the truth.
    """
    both, number, number_true = ((each.sum(axis=(1, 2))) for each in (found & truth, found, truth))
    shown = (number > 0) & (number_true > 0)
    distance = np.linalg.norm(_centres(found[shown]) - _centres(truth[shown]), axis=1) * CELL
    return {
        "precision": bootstrap(lambda rows: _ratio(both[rows], number[rows]), names),
        "recall": bootstrap(lambda rows: _ratio(both[rows], number_true[rows]), names),
        "place_error": bootstrap(lambda rows: float(np.median(distance[rows])), names[shown]),
        "size_ratio": bootstrap(lambda rows: _ratio(number[rows], number_true[rows]), names),
    }


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else float("nan")


def _centres(found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The centres of the cells found, row and column `(n, 2)`."""
    weights = found.sum(axis=(1, 2))
    places = np.arange(found.shape[1])
    rows = (found.sum(axis=2) * places).sum(axis=1) / weights
    columns = (found.sum(axis=1) * places).sum(axis=1) / weights
    return np.stack([rows, columns], axis=1)
