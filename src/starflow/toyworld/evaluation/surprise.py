"""Whether the flow is surprised by events that break the world's rules, compared with matched normal clips.

The surprise is the negative log-likelihood. The detector is the surprise of a clip's most surprising latent frame.

Legend: `n` clips, `F` video frames, `T` latent frames, `H W` latent rows and columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from starflow.evaluation.clips import batches
from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.metrics.likelihood import TOKENS_AT_ONCE
from starflow.evaluation.statistics import proportion
from starflow.flow.loss import add_noise
from starflow.likelihood.heatmap import latent_frames, overlay
from starflow.likelihood.score import deep_log_likelihood, shallow_log_det
from starflow.media.frames import Frames, to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import require_finite
from starflow.toyworld.world.captions import caption
from starflow.toyworld.world.render import render
from starflow.toyworld.world.violations import VIOLATIONS, plant
from starflow.toyworld.world.vocabulary import NUM_FRAMES


def evaluate_surprise(pipeline: StarFlowPipeline, seed: int, num_clips: int) -> Measured:
    """Plant each violation in `num_clips` held-out scenes, and find where the flow is most surprised.

    Returns:
        `num_clips`, and in `violations` for each violation: `auroc` of the detector; `located`, the proportion of clips
        whose most surprising latent frame is the first with the violation; `coincidence`, the same of the matched
        normal clips. The cards show the first clip of each violation under its surprise.

    Raises:
        StarflowError: a likelihood is not finite.
    """
    factor = pipeline.codec.temporal_factor
    results: dict[str, Any] = {}
    cards = []
    for number, violation in enumerate(tqdm(VIOLATIONS, desc="surprise", unit="violation", disable=None)):
        rngs = [np.random.default_rng([seed, index, number]) for index in range(num_clips)]
        planted = [plant(violation, rng, "test") for rng in rngs]
        captions = [caption(each.scene, rng, "test") for each, rng in zip(planted, rngs, strict=True)]
        wrong, normal = (
            surprise_maps(pipeline, np.stack(clips), captions, seed)
            for clips in ([each.frames for each in planted], [render(each.scene) for each in planted])
        )
        where = latent_frames(NUM_FRAMES, factor)[[each.frame for each in planted]]
        results[violation] = detection(wrong, normal, where)
        clip, surprise = planted[0].frames, wrong[0]
        heatmap = overlay(clip, surprise, factor, Normalize(surprise.min(), surprise.max()))
        cards.append(Card(f"{captions[0]}: {violation}", {"clip": clip, "surprise": heatmap}))
    return Measured({"num_clips": num_clips, "violations": results}, cards)


def surprise_maps(pipeline: StarFlowPipeline, clips: Frames, captions: Sequence[str], seed: int) -> NDArray[np.float32]:
    """Negative log-likelihood in nats of each token of clips `(n, F, height, width, 3)`: `(n, T, H, W)`."""
    maps = []
    for batch in batches(pipeline, len(clips), TOKENS_AT_ONCE):
        noise = torch.Generator().manual_seed(seed)
        x = add_noise(pipeline.codec.encode(to_tensor(clips[batch])), pipeline.config.noise_std, noise)
        text = pipeline.encode_prompt(captions[batch], pipeline.config.fps)
        u, log_det = shallow_log_det(pipeline.flow, x)
        maps.append(-(deep_log_likelihood(pipeline.flow, u, text) + log_det))
    return require_finite(torch.cat(maps), "the likelihood").cpu().numpy()


def detection(wrong: NDArray[np.float32], normal: NDArray[np.float32], where: NDArray[np.int64]) -> dict[str, Any]:
    """The results of one violation.

    Args:
        wrong, normal: surprise `(n, T, H, W)` of the clips with it and without it.
        where: the latent frame of each clip in which it begins, `(n,)`.
    """
    wrong_frames, normal_frames = (maps.sum(axis=(2, 3)) for maps in (wrong, normal))
    # The area under the ROC curve is the share of pairs in which the wrong clip is the more surprising one.
    pairs_won = mannwhitneyu(wrong_frames.max(axis=1), normal_frames.max(axis=1)).statistic
    return {
        "auroc": float(pairs_won) / (len(wrong) * len(normal)),
        "located": proportion((wrong_frames.argmax(axis=1) == where).tolist()),
        "coincidence": proportion((normal_frames.argmax(axis=1) == where).tolist()),
    }
