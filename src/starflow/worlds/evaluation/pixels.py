"""How close frames come to the truth, pixel by pixel: of the autoencoder, of next frames, and of rollouts.

A PSNR is that of the mean squared error over all pixels and frames, `10·log10(4 / error)` with values in [-1, 1]. The
mean of the PSNR of each frame, as others report it, is larger, most of all where nothing moves.

Legend: `n` clips or frames, `F` frames of a clip.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.statistics import bootstrap, bootstrap_mean
from starflow.media.frames import Frames
from starflow.worlds.evaluation.clips import CONTEXT, GameClips
from starflow.worlds.evaluation.material import Material, by_scenario, roll_out
from starflow.worlds.evaluation.training import nearest_continuations

PURPOSE = 21  # of noise
CHANGED = 0.1  # share of the pixels of a frame: those that change most
STARTS = (0, 8, 16, 24)  # of the contexts of next frames, in each clip
HORIZONS = (1, 4, 8, 16, 32)  # frames after the context
NUM_SHOWN = 6


def evaluate_autoencoder(material: Material) -> dict[str, Any]:
    """Measure the autoencoder on the held-out clips.

    Returns:
        `all` and each scenario: `psnr` of all pixels, and `monsters_psnr` of those that monsters cover at least half.
    """
    clips = material.clips
    errors = squared_errors(material.reconstructions, clips.frames)
    covered = (clips.monsters >= 128) & clips.exists[..., None, None]
    everything = np.broadcast_to(clips.exists[..., None, None], errors.shape)

    def measure(rows: NDArray[np.intp]) -> dict[str, Any]:
        return {
            "psnr": psnr_where(errors[rows], everything[rows], clips.names[rows]),
            "monsters_psnr": psnr_where(errors[rows], covered[rows], clips.names[rows]),
        }

    return by_scenario(clips.scenarios, measure)


def evaluate_next_frame(material: Material) -> dict[str, Any]:
    """Sample the frame after `CONTEXT` true frames, given the true action.

    Returns:
        `all` and each scenario, and there `sampled`, `repeated` (the last true frame) and `autoencoder` (the true frame
        through it): `psnr`; `mean_psnr`, the mean of the PSNR of each frame; and `changed_psnr`, of the tenth of the
        pixels that change most from the last true frame.
    """
    clips = material.clips.excerpts(STARTS, CONTEXT + 1)
    last, truth = clips.frames[:, -2], clips.frames[:, -1]
    sampled = roll_out(material.pipeline, clips, material.settings, "next frames", PURPOSE)[:, -1]
    columns = {"sampled": sampled, "repeated": last, "autoencoder": _reconstructed(material, clips)}
    errors = {name: squared_errors(frames, truth) for name, frames in columns.items()}
    changed = most_changed(last, truth)

    def measure(rows: NDArray[np.intp]) -> dict[str, Any]:
        names = clips.names[rows]
        return {
            column: {
                "psnr": psnr_where(error[rows], np.ones_like(changed[rows]), names),
                "mean_psnr": bootstrap_mean(_decibels(error[rows].mean(axis=(1, 2))), names),
                "changed_psnr": psnr_where(error[rows], changed[rows], names),
            }
            for column, error in errors.items()
        }

    return {"num_frames": len(clips)} | by_scenario(clips.scenarios, measure)


def evaluate_rollouts(material: Material) -> Measured:
    """Continue `CONTEXT` true frames with the true actions, and compare with what the player would have seen.

    Returns:
        `all` and each scenario, and there `rollout`, `repeated` (the last true frame), `nearest` (what follows the
        nearest context in the training episodes) and `autoencoder`: a list of PSNRs over `HORIZONS`, of the clips whose
        episodes are long enough.
    """
    clips = material.clips
    columns = {
        "rollout": material.rollouts[:, CONTEXT:],
        "repeated": np.repeat(clips.frames[:, CONTEXT - 1 : CONTEXT], clips.num_frames - CONTEXT, axis=1),
        "nearest": nearest_continuations(material.library, clips, CONTEXT),
        "autoencoder": material.reconstructions[:, CONTEXT:],
    }
    truth, exists = clips.frames[:, CONTEXT:], clips.exists[:, CONTEXT:]
    places = np.array(HORIZONS) - 1
    errors = {name: squared_errors(frames[:, places], truth[:, places]) for name, frames in columns.items()}

    def measure(rows: NDArray[np.intp]) -> dict[str, Any]:
        return {
            column: [
                psnr_where(
                    error[rows, number],
                    np.broadcast_to(exists[rows, place, None, None], error[rows, number].shape),
                    clips.names[rows],
                )
                for number, place in enumerate(places)
            ]
            for column, error in errors.items()
        }

    results = {"num_clips": len(clips), "horizons": list(HORIZONS)} | by_scenario(clips.scenarios, measure)
    return Measured(results, _cards(clips, {"true": truth} | columns))


def squared_errors(frames: Frames, truth: Frames) -> NDArray[np.float32]:
    """Squared errors `(…, height, width)`, the mean over the channels, of values in [-1, 1]."""
    return np.square((frames.astype(np.float32) - truth) / 127.5).mean(axis=-1)


def most_changed(last: Frames, truth: Frames) -> NDArray[np.bool_]:
    """The tenth of the pixels of each frame that change most, `(n, height, width)`; ties are broken by place."""
    change = squared_errors(last, truth)
    flat = change.reshape(len(change), -1)
    chosen = np.argsort(-flat, axis=1, kind="stable")[:, : round(CHANGED * flat.shape[1])]
    mask = np.zeros(flat.shape, bool)
    np.put_along_axis(mask, chosen, True, axis=1)
    return mask.reshape(change.shape)


def psnr_where(errors: NDArray[np.float32], mask: NDArray[np.bool_], names: NDArray[np.str_]) -> dict[str, Any]:
    """The PSNR in dB of some pixels, with its interval over episodes.

    Args:
        errors: `(n, …)`, of `squared_errors`.
        mask: which pixels count, of the same shape.
        names: of the episodes, `(n,)`.
    """
    axes = tuple(range(1, errors.ndim))
    sums, counts = (errors * mask).sum(axis=axes, dtype=np.float64), mask.sum(axis=axes)
    used = counts > 0
    sums, counts = sums[used], counts[used]
    return bootstrap(lambda rows: float(_decibels(sums[rows].sum() / counts[rows].sum())), names[used])


def _decibels(error: Any) -> Any:
    """The PSNR of a mean squared error; 106 dB for none, as in `starflow.media.frames.psnr`."""
    return 10 * np.log10(4 / np.maximum(error, 1e-10))


def _reconstructed(material: Material, clips: GameClips) -> Frames:
    """The last frames of excerpts of the clips, through the autoencoder."""
    own = material.clips
    places = {
        (name, start + place): (number, place)
        for number, (name, start) in enumerate(zip(own.names, own.starts, strict=True))
        for place in range(own.num_frames)
    }
    wanted = (places[name, start + CONTEXT] for name, start in zip(clips.names, clips.starts, strict=True))
    return np.stack([material.reconstructions[place] for place in wanted])


def _cards(clips: GameClips, columns: Mapping[str, Frames]) -> list[Card]:
    """The first clips of full length, evenly spread."""
    complete = np.flatnonzero(clips.exists.all(axis=1))
    shown = complete[np.linspace(0, len(complete) - 1, NUM_SHOWN).round().astype(int)] if len(complete) else []
    return [
        Card(f"{clips.captions[row]} ({clips.names[row]})", {name: each[row] for name, each in columns.items()})
        for row in dict.fromkeys(int(each) for each in shown)
    ]
