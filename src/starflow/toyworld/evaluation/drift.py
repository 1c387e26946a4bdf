"""What becomes of long videos: sharpness, and what the checker sees, second by second.

The model makes them through its rolling window, which moves on many times: errors may add up.

Legend: `n` clips, `F` video frames, `S` seconds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from starflow.evaluation.clips import Frames
from starflow.evaluation.generation import SamplingSettings, generate, sampling_results
from starflow.evaluation.measured import Card, Measured
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.statistics import proportion, summary
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.prompts import Prompt
from starflow.toyworld.reader.checker import describe, name_background
from starflow.toyworld.world.render import render
from starflow.toyworld.world.vocabulary import FPS

PURPOSE = 8  # of noise
STEEPEST = 0.01  # the share of a frame's pixels that its edges are judged by


def evaluate_drift(
    pipeline: StarFlowPipeline,
    prompts: Sequence[Prompt],
    seconds: int,
    settings: SamplingSettings,
    codec_batch: int,
    num_shown: int,
) -> Measured:
    """Make videos of `seconds` seconds from the captions of prompts, each of one object.

    Returns:
        For `generated`, and for `ceiling`, videos of the same scenes and length through the VAE, see `measure_seconds`.

    Raises:
        StarflowError: NaN in what was sampled.
    """
    captions = [prompt.caption for prompt in prompts]
    num_frames = seconds * FPS + 1
    generated, report = generate(pipeline, captions, settings, "long videos", purpose=PURPOSE, num_frames=num_frames)
    truth = np.stack([render(prompt.scene, num_frames) for prompt in prompts])
    ceiling = reconstruct(pipeline.codec, truth, codec_batch, "long videos: ceiling").frames
    results = {
        "num_clips": len(prompts),
        "seconds": seconds,
        "generated": measure_seconds(generated, prompts),
        "ceiling": measure_seconds(ceiling, prompts),
        "sampling": sampling_results(report),
    }
    return Measured(
        results, [Card(text, {"": made}) for text, made in zip(captions[:num_shown], generated, strict=False)]
    )


def measure_seconds(clips: Frames, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What is seen in each whole second of `(n, F, height, width, 3)`: lists of what `measure_second` returns.

    The background is to stay what it is in the first second.
    """
    shades = [name_background(clip[:FPS]) for clip in clips]
    starts = range(0, clips.shape[1] - FPS + 1, FPS)
    per_second = [measure_second(clips[:, start : start + FPS], prompts, shades) for start in starts]
    return {name: [each[name] for each in per_second] for name in per_second[0]}


def measure_second(clips: Frames, prompts: Sequence[Prompt], shades: Sequence[str]) -> dict[str, Any]:
    """What is seen in `(n, F, height, width, 3)`.

    Returns:
        `sharpness`: summary over the clips in which any object is found, see `sharpness`; None if there are none.
        Proportions of the clips: `present`, any object is found; `alone`, exactly one; of those with any, `color` and
        `shape`, the largest has the caption's; `background`, it has the shade that `shades` names.
    """
    found = [describe(clip) for clip in clips]
    largest = [objects[0] if objects else None for objects in found]
    said = [prompt.description.objects[0] for prompt in prompts]
    steep = [sharpness(clip).mean() for clip, item in zip(clips, largest, strict=True) if item is not None]
    pairs = list(zip(largest, said, strict=True))
    return {
        "sharpness": summary(torch.tensor(steep)) if steep else None,
        "present": proportion(item is not None for item in largest),
        "alone": proportion(len(objects) == 1 for objects in found),
        "color": proportion(None if item is None else item.color == what.color for item, what in pairs),
        "shape": proportion(None if item is None else item.shape == what.shape for item, what in pairs),
        "background": proportion(name_background(clip) == shade for clip, shade in zip(clips, shades, strict=True)),
    }


def sharpness(clip: Frames) -> NDArray[np.float32]:
    """How steep the edges are in each frame of `(F, height, width, 3)`: `(F,)`, in the range of values per px.

    The gradient (central differences, norm over channels and both directions), mean over the `STEEPEST` pixels.
    """
    across = np.gradient(clip.astype(np.float32) / 255, axis=(1, 2))
    steepness = np.sqrt(sum((part**2).sum(axis=-1) for part in across)).reshape(len(clip), -1)
    num_pixels = round(STEEPEST * steepness.shape[1])
    return np.sort(steepness, axis=1)[:, -num_pixels:].mean(axis=1)
