"""Whether the flow is surprised where it should be: clips with a planted violation against matched normal ones.

The detector is the surprise, that is the negative log-likelihood, of a clip's most surprising latent frame.

Legend: `n` clips, `F` video frames, `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from starflow.evaluation.clips import Frames, batches, to_video
from starflow.evaluation.metrics.denoising import add_noise
from starflow.evaluation.statistics import proportion
from starflow.likelihood.heatmap import latent_frames, overlay
from starflow.likelihood.score import deep_log_likelihood, shallow_log_det
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import require_finite
from starflow.toyworld.world.captions import caption
from starflow.toyworld.world.render import render
from starflow.toyworld.world.violations import VIOLATIONS, Violation, plant
from starflow.toyworld.world.vocabulary import NUM_FRAMES


@dataclass(frozen=True)
class SurprisingClip:
    """A clip with a violation, its caption, and the clip under its surprise; frames `(F, height, width, 3)`."""

    violation: Violation
    caption: str
    frames: Frames
    heat: Frames


@dataclass(frozen=True)
class Surprise:
    """Results for `evaluation.json`, and the first clip of each violation."""

    results: dict[str, Any]
    examples: list[SurprisingClip]


def evaluate_surprise(pipeline: StarFlowPipeline, seed: int, num_scenes: int, batch_size: int) -> Surprise:
    """Plant each violation in `num_scenes` held-out scenes, and look where the flow is most surprised.

    Returns:
        For each violation: `auroc` of the detector; `located`, the proportion of clips whose most surprising latent
        frame is the one in which the violation shows first; `coincidence`, the same of the matched normal clips.

    Raises:
        StarflowError: a likelihood is not finite.
    """
    factor = pipeline.codec.temporal_factor
    results: dict[str, Any] = {}
    examples = []
    for violation in tqdm(VIOLATIONS, desc="surprise", unit="violation", disable=None):
        rngs = [np.random.default_rng([seed, index, VIOLATIONS.index(violation)]) for index in range(num_scenes)]
        planted = [plant(violation, rng, "test") for rng in rngs]
        captions = [caption(each.scene, rng, "test") for each, rng in zip(planted, rngs, strict=True)]
        wrong, normal = (
            surprise_maps(pipeline, np.stack(clips), captions, seed, batch_size)
            for clips in ([each.frames for each in planted], [render(each.scene) for each in planted])
        )
        where = latent_frames(NUM_FRAMES, factor)[[each.frame for each in planted]]
        results[violation] = detection(wrong, normal, where)
        frames, surprise = planted[0].frames, wrong[0]
        heat = overlay(frames, surprise, factor, Normalize(surprise.min(), surprise.max()))
        examples.append(SurprisingClip(violation, captions[0], frames, heat))
    return Surprise({"num_clips": num_scenes, "violations": results}, examples)


def surprise_maps(
    pipeline: StarFlowPipeline, clips: Frames, captions: Sequence[str], seed: int, batch_size: int
) -> NDArray[np.float32]:
    """Negative log-likelihood in nats of each token of clips `(n, F, height, width, 3)`, `(n, T, H, W)`."""
    maps = []
    for batch in batches(len(clips), batch_size):
        x = add_noise(pipeline.codec.encode(to_video(clips[batch])), pipeline.config.noise_std, seed)
        text = pipeline.encode_prompt(captions[batch], pipeline.config.fps)
        u, log_det = shallow_log_det(pipeline.flow, x)
        maps.append(-(deep_log_likelihood(pipeline.flow, u, text) + log_det))
    return require_finite(torch.cat(maps), "the likelihood").cpu().numpy()


def detection(wrong: NDArray[np.float32], normal: NDArray[np.float32], where: NDArray[np.int64]) -> dict[str, Any]:
    """Results of one violation: maps `(n, T, H, W)` of the wrong clips and of the normal ones, `where` is `(n,)`."""
    wrong_frames, normal_frames = (maps.sum(axis=(2, 3)) for maps in (wrong, normal))
    # The share of pairs in which the wrong clip is the more surprising one is the area under the ROC curve.
    pairs_won = mannwhitneyu(wrong_frames.max(axis=1), normal_frames.max(axis=1)).statistic
    return {
        "auroc": float(pairs_won) / (len(wrong) * len(normal)),
        "located": proportion((wrong_frames.argmax(axis=1) == where).tolist()),
        "coincidence": proportion((normal_frames.argmax(axis=1) == where).tolist()),
    }
