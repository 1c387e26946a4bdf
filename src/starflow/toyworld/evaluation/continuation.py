"""Continued clips: whether the object is still there, and whether a seam shows at the joint.

The joint is where the given part ends. The clips are held-out clips of one object. The ceiling is the autoencoder's
reconstruction of what truly follows. The floor has a visible seam: the clip starts again from its beginning.

A point that keeps its velocity is at `2 p(t-1) - p(t-2)`. The *jump* at frame `t` is the distance in px of the object's
center from this point. It involves the given part in the first two frames after the joint.

Legend: `n` clips, `F` video frames of a continued clip, the first `NUM_FRAMES` of them given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.settings import EvaluationSettings
from starflow.evaluation.statistics import proportion, summary
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.compliance import score
from starflow.toyworld.evaluation.prompts import Prompt
from starflow.toyworld.reader.blobs import find_background
from starflow.toyworld.reader.checker import check, describe
from starflow.toyworld.world.render import render
from starflow.toyworld.world.vocabulary import NUM_FRAMES

PURPOSE = 6  # of noise
NUM_SHOWN = 4
CONTINUED_FRAMES = 2 * NUM_FRAMES - 1
# The caption describes a clip of standard length. After it, an object that grew is no longer small, and one that moved
# is at the edge. These attributes and motions stay true:
LASTING_ATTRIBUTES = ("color", "shape", "count", "background")
LASTING_MOTIONS = ("bounce", "orbit", "still")
SEAM = 2.0  # px: a smaller jump is never a seam
RESIZED = 1.3  # a change of the area by this factor in one frame is a seam
SHADED = 8.0  # of 255: such a change of the background in one frame is a seam
SPAN = 4  # frames over which velocity is measured


@dataclass(frozen=True)
class Track:
    """The object of a continued clip, and its background.

    Attributes:
        centers: `(F, 2)` in px, NaN where the object is not found.
        areas: `(F,)` in px², NaN where the object is not found.
        shades: `(F,)`, gray values of the background from 0 to 255.
        there: whether the object is found in most frames after the joint.
    """

    centers: NDArray[np.float64]
    areas: NDArray[np.float64]
    shades: NDArray[np.float32]
    there: bool

    @property
    def jumps(self) -> NDArray[np.float64]:
        """`(F,)` in px, NaN in the first two frames and where a center is missing."""
        bends = np.linalg.norm(np.diff(self.centers, n=2, axis=0), axis=1)
        return np.concatenate([[np.nan, np.nan], bends])

    @property
    def jump(self) -> float:
        """The jump in px at the first frame after the joint."""
        return float(self.jumps[NUM_FRAMES])

    @property
    def usual_jumps(self) -> NDArray[np.float64]:
        """The jumps in px within the given part, without NaN."""
        jumps = self.jumps[:NUM_FRAMES]
        return jumps[~np.isnan(jumps)]

    @property
    def velocity_change(self) -> float:
        """The change of the velocity at the joint, in px/frame."""
        at = NUM_FRAMES - 1
        before, joint, after = self.centers[[at - SPAN, at, at + SPAN]]
        return float(np.linalg.norm(after - 2 * joint + before)) / SPAN

    @property
    def is_seamless(self) -> bool:
        """Whether no seam shows.

        The object is there, jumps at the joint by at most `SEAM` or the largest jump before it, and its area changes by
        less than the factor `RESIZED`. The background changes by less than `SHADED`.
        """
        goes_on = self.jumps[NUM_FRAMES : NUM_FRAMES + 2].max() <= max([SEAM, *self.usual_jumps])
        resized = abs(np.log(self.areas[NUM_FRAMES] / self.areas[NUM_FRAMES - 1]))
        shaded = abs(self.shades[NUM_FRAMES] - self.shades[NUM_FRAMES - 1])
        return bool(self.there and goes_on and resized < np.log(RESIZED) and shaded < SHADED)


def evaluate_continuation(
    pipeline: StarFlowPipeline, prompts: Sequence[Prompt], settings: EvaluationSettings
) -> Measured:
    """Continue the clips of prompts with one object to `CONTINUED_FRAMES`.

    Returns:
        `num_clips`; `num_frames`, `given` and `all`; `generated`, `ceiling` and `floor`, see `judge`; and `sampling`.

    Raises:
        StarflowError: NaN in a sample.
    """
    truth = np.stack([render(prompt.scene, CONTINUED_FRAMES) for prompt in prompts])
    captions = [prompt.caption for prompt in prompts]
    generated, report = generate(
        pipeline,
        captions,
        settings,
        "continuation",
        purpose=PURPOSE,
        num_frames=CONTINUED_FRAMES,
        given={"extend": truth[:, :NUM_FRAMES]},
    )
    ceiling = reconstruct(pipeline, truth, "continuation: ceiling").frames
    floor = np.concatenate([truth[:, :NUM_FRAMES], truth[:, : NUM_FRAMES - 1]], axis=1)
    results = {
        "num_clips": len(prompts),
        "num_frames": {"given": NUM_FRAMES, "all": CONTINUED_FRAMES},
        "generated": judge(generated, prompts),
        "ceiling": judge(ceiling, prompts),
        "floor": judge(floor, prompts),
        "sampling": sampling_results(report),
    }
    shown = zip(captions[:NUM_SHOWN], generated, truth, strict=False)
    return Measured(results, [Card(text, {"made": made, "true": true}) for text, made, true in shown])


def judge(clips: Frames, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Judge continued clips `(n, F, height, width, 3)`.

    Returns:
        `there`, proportion of the clips in which an object of the same color is found in most frames after the joint;
        `seamless`, proportion, see `Track.is_seamless`; `jump` at the joint and `usual_jump`, the mean within the given
        part, summaries in px; `velocity_change`, summary in px/frame; and `after`, proportions of the clips whose
        frames after the joint have the caption's color, shape, count, background, and motion if it is one of
        `LASTING_MOTIONS`. A summary is None if no clip can be judged.
    """
    tracks = [follow(clip) for clip in clips]
    after = [check(clip[NUM_FRAMES:], prompt.description) for clip, prompt in zip(clips, prompts, strict=True)]
    motions = [item for result in after for item in result.objects if item.description.motion in LASTING_MOTIONS]
    shares = score(after)
    return {
        "there": proportion(track.there for track in tracks),
        "seamless": proportion(track.is_seamless for track in tracks),
        "jump": _summary([track.jump for track in tracks]),
        "usual_jump": _summary([float(track.usual_jumps.mean()) for track in tracks if len(track.usual_jumps)]),
        "velocity_change": _summary([track.velocity_change for track in tracks]),
        "after": {name: shares[name] for name in LASTING_ATTRIBUTES}
        | {"motion": proportion(item.motion for item in motions)},
    }


def follow(clip: Frames) -> Track:
    """Track the largest object of the given part, and the largest object of its color after the joint."""
    centers, areas = np.full((len(clip), 2), np.nan), np.full(len(clip), np.nan)
    before = describe(clip[:NUM_FRAMES])[:1]
    after = [item for item in describe(clip[NUM_FRAMES:]) if before and item.color == before[0].color][:1]
    for found, frames in ((before, slice(NUM_FRAMES)), (after, slice(NUM_FRAMES, None))):
        for item in found:
            centers[frames], areas[frames] = item.centers, item.areas
    return Track(centers, areas, find_background(clip).mean(axis=1), there=bool(after))


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    """The summary of the values that are not NaN; None if there are none."""
    known = torch.tensor([value for value in values if not np.isnan(value)])
    return summary(known) if len(known) else None
