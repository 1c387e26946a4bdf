"""How long videos change: their sharpness and the findings of the checker, second by second.

The rolling window moves many times in a long video, so that errors can accumulate.

Legend: `n` clips, `F` video frames, `S` seconds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.metrics.sharpness import sharpness
from starflow.evaluation.settings import EvaluationSettings
from starflow.evaluation.statistics import proportion, summary
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.prompts import Prompt
from starflow.toyworld.reader.checker import describe, name_background
from starflow.toyworld.world.render import render
from starflow.toyworld.world.vocabulary import FPS

PURPOSE = 8  # of noise
NUM_SHOWN = 2
STEEPEST = 0.01  # share of the pixels of a frame that count as edges


def evaluate_drift(
    pipeline: StarFlowPipeline, prompts: Sequence[Prompt], seconds: int, settings: EvaluationSettings
) -> Measured:
    """Generate a video of `seconds` seconds for each prompt; all have one object.

    Returns:
        `num_clips`; `seconds`; `generated`, and `ceiling`, the autoencoder's reconstructions of true videos of the same
        scenes and length, see `measure_seconds`; and `sampling`.

    Raises:
        StarflowError: NaN in a sample.
    """
    captions = [prompt.caption for prompt in prompts]
    num_frames = seconds * FPS + 1
    generated, report = generate(pipeline, captions, settings, "long videos", purpose=PURPOSE, num_frames=num_frames)
    truth = np.stack([render(prompt.scene, num_frames) for prompt in prompts])
    ceiling = reconstruct(pipeline, truth, "long videos: ceiling").frames
    results = {
        "num_clips": len(prompts),
        "seconds": seconds,
        "generated": measure_seconds(generated, prompts),
        "ceiling": measure_seconds(ceiling, prompts),
        "sampling": sampling_results(report),
    }
    shown = zip(captions[:NUM_SHOWN], generated, strict=False)
    return Measured(results, [Card(caption, {"": clip}) for caption, clip in shown])


def measure_seconds(clips: Frames, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Measure each whole second of clips `(n, F, height, width, 3)`.

    Returns:
        A list over the seconds for each key of `measure_second`. The shade that the background should have is that of
        the first second.
    """
    shades = [name_background(clip[:FPS]) for clip in clips]
    starts = range(0, clips.shape[1] - FPS + 1, FPS)
    per_second = [measure_second(clips[:, start : start + FPS], prompts, shades) for start in starts]
    return {name: [each[name] for each in per_second] for name in per_second[0]}


def measure_second(clips: Frames, prompts: Sequence[Prompt], shades: Sequence[str]) -> dict[str, Any]:
    """Measure clips of one second `(n, F, height, width, 3)`.

    Returns:
        `sharpness`: summary over the clips in which an object is found, None if there are none.
        `present`, `alone`: proportions of the clips with any object, and with exactly one.
        `color`, `shape`: proportions of the clips with an object whose largest one is as the caption says.
        `background`: proportion of the clips whose background has the shade in `shades`.
    """
    found = [describe(clip) for clip in clips]
    largest = [objects[0] if objects else None for objects in found]
    said = [prompt.description.objects[0] for prompt in prompts]
    steep = [sharpness(clip, STEEPEST).mean() for clip, item in zip(clips, largest, strict=True) if item is not None]
    pairs = list(zip(largest, said, strict=True))
    return {
        "sharpness": summary(torch.tensor(steep)) if steep else None,
        "present": proportion(item is not None for item in largest),
        "alone": proportion(len(objects) == 1 for objects in found),
        "color": proportion(None if item is None else item.color == what.color for item, what in pairs),
        "shape": proportion(None if item is None else item.shape == what.shape for item, what in pairs),
        "background": proportion(name_background(clip) == shade for clip, shade in zip(clips, shades, strict=True)),
    }
