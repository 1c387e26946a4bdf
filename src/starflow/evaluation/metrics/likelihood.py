"""How likely clips are under the flow, at the noise level that it was trained on.

Legend: `n` clips, `T` latent frames, `H W` latent rows and columns, `D` latent channels. A dimension is one element of
the latents.
"""

from collections.abc import Sequence
from math import e, log, pi
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from starflow.evaluation.clips import batches
from starflow.evaluation.statistics import summary
from starflow.flow.loss import negative_log_likelihood
from starflow.likelihood.score import caption_fps
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import require_finite

TOKENS_AT_ONCE = 2000


def noise_entropy(noise_std: float) -> float:
    """Differential entropy of the noise in nats per dimension, `0.5·log(2πe·noise_std²)`.

    It bounds the mean negative log-likelihood of `x + noise_std·ε` from below, because `h(x + noise) >= h(noise)`.
    """
    return 0.5 * log(2 * pi * e * noise_std**2)


@torch.no_grad()
def evaluate_likelihood(pipeline: StarFlowPipeline, noisy: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """Measure the negative log-likelihood per dimension, with the captions and with the empty caption.

    Args:
        pipeline: the model.
        noisy: latents `(n, T, D, H, W)` at the model's noise level.
        captions: one for each clip.

    Raises:
        StarflowError: a likelihood is not finite.
    """
    captioned, uncaptioned = [], []
    fps = caption_fps(pipeline, noisy)
    null_text = pipeline.encode_prompt([""], fps)
    with tqdm(total=len(noisy), desc="likelihood", unit="clip", disable=None) as bar:
        for batch in batches(pipeline, len(noisy), TOKENS_AT_ONCE):
            x, text = noisy[batch], pipeline.encode_prompt(captions[batch], fps)
            captioned.append(_nats_per_dim(pipeline, x, text))
            uncaptioned.append(_nats_per_dim(pipeline, x, null_text.expand_as(text)))
            bar.update(len(x))
    nats, null_nats = torch.cat(captioned), torch.cat(uncaptioned)
    noise_std = pipeline.config.noise_std
    floor = noise_entropy(noise_std)
    return {
        "num_clips": len(noisy),
        "num_dims": noisy[0].numel(),
        "noise_std": noise_std,
        "caption": _in_both_units(nats),
        "empty_caption": _in_both_units(null_nats),
        "difference": _in_both_units(null_nats - nats),
        "noise_entropy": {"nats_per_dim": floor, "bits_per_dim": floor / log(2)},
    }


def _nats_per_dim(pipeline: StarFlowPipeline, x: Tensor, text: Tensor) -> Tensor:
    nats = negative_log_likelihood(pipeline.flow.encode(x, text)).flatten(1).mean(dim=1)
    return require_finite(nats, "the likelihood").cpu()


def _in_both_units(nats: Tensor) -> dict[str, Any]:
    return {"nats_per_dim": summary(nats), "bits_per_dim": summary(nats / log(2))}
