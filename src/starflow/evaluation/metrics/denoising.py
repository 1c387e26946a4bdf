"""What the denoiser is worth: noised latents denoised by nothing, by one score step of the flow, and by the denoiser.

Legend: `B` batch, `F` video frames, `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from starflow.evaluation.clips import CaptionedClips, Frames, batches, to_frames, to_video
from starflow.evaluation.metrics.reconstruction import Reconstruction, clip_psnr
from starflow.evaluation.statistics import summary
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import score_step
from starflow.sampling.solvers import require_finite

Denoise = Callable[[Tensor, Tensor], Tensor]
METRICS = ("latent_mse", "psnr_to_reconstruction", "psnr_to_clip")


@dataclass(frozen=True)
class Denoising:
    """Results for `evaluation.json`, and by each method the frames `(k, F, height, width, 3)` of the first clips."""

    results: dict[str, Any]
    frames: dict[str, Frames]


def add_noise(latents: Tensor, noise_std: float, seed: int) -> Tensor:
    """Latents at the noise level that the flow was trained on; the noise comes from the seed."""
    generator = torch.Generator().manual_seed(seed)
    return latents + noise_std * torch.randn(latents.shape, generator=generator).to(latents)


def evaluate_denoising(
    pipeline: StarFlowPipeline,
    clips: CaptionedClips,
    clean: Reconstruction,
    noisy: Tensor,
    batch_size: int,
    num_shown: int,
) -> Denoising:
    """Compare the methods on the noised latents `(n, T, D, H, W)` of clips.

    Args:
        pipeline: the model.
        clips: the true ones.
        clean: their latents without noise, and what these decode to.
        noisy: the latents with noise.
        batch_size: clips at once.
        num_shown: how many clips to keep the pictures of.

    Returns:
        For each method the squared error of the latents, and the PSNR in dB of what they decode to, against the decoded
        clean latents and against the true clips. `denoiser` is None for a model without one.

    Raises:
        StarflowError: NaN in what was denoised.
    """
    values: dict[str, dict[str, list[Tensor]]] = {}
    shown: dict[str, list[Frames]] = {}
    with tqdm(total=len(noisy), desc="denoising", unit="clip", disable=None) as bar:
        for batch in batches(len(noisy), batch_size):
            text = pipeline.encode_prompt(clips.captions[batch], pipeline.config.fps)
            truth, reconstruction = to_video(clips.frames[batch]), to_video(clean.frames[batch])
            for name, denoise in _methods(pipeline).items():
                x = require_finite(denoise(noisy[batch], text), "a denoised clip")
                video = pipeline.codec.decode(x).cpu()
                errors = (x - clean.latents[batch]).square().flatten(1).mean(dim=1).cpu()
                measured = (errors, clip_psnr(video, reconstruction), clip_psnr(video, truth))
                for metric, value in zip(METRICS, measured, strict=True):
                    values.setdefault(name, {}).setdefault(metric, []).append(value)
                shown.setdefault(name, []).append(to_frames(video[: max(num_shown - batch.start, 0)]))
            bar.update(len(truth))
    results: dict[str, Any] = {"num_clips": len(noisy), "noise_std": pipeline.config.noise_std}
    for name, metrics in values.items():
        results[name] = {metric: summary(torch.cat(pieces)) for metric, pieces in metrics.items()}
    results.setdefault("denoiser", None)
    return Denoising(results, {name: np.concatenate(pieces) for name, pieces in shown.items()})


def _methods(pipeline: StarFlowPipeline) -> dict[str, Denoise]:
    methods: dict[str, Denoise] = {
        "nothing": lambda x, text: x,
        "score_step": lambda x, text: score_step(pipeline.flow, x, text, pipeline.config.noise_std),
    }
    return methods if pipeline.denoiser is None else methods | {"denoiser": pipeline.denoise}
