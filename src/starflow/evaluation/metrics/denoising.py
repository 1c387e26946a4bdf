"""What the denoiser improves: noisy latents as they are, after one score step of the flow, and after the denoiser.

Legend: `n` clips, `F` video frames, `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from starflow.evaluation.clips import CaptionedClips, batches
from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.metrics.reconstruction import TOKENS_AT_ONCE, Reconstruction
from starflow.evaluation.statistics import summary
from starflow.likelihood.score import caption_fps
from starflow.media.frames import Frames, psnr, to_frames, to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import score_step
from starflow.sampling.solvers import require_finite

Denoise = Callable[[Tensor, Tensor], Tensor]
METRICS = ("latent_mse", "psnr_to_reconstruction", "psnr_to_clip")
METHOD_TITLES = {"nothing": "nothing", "score_step": "one score step", "denoiser": "the learned denoiser"}
NUM_SHOWN = 6


def evaluate_denoising(
    pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction, noisy: Tensor
) -> Measured:
    """Compare the methods on noisy latents.

    Args:
        pipeline: the model.
        clips: the original clips.
        clean: their latents without noise, and the frames decoded from these.
        noisy: the latents with noise, `(n, T, D, H, W)`.

    Returns:
        For each method, the mean squared error of the latents, and the PSNR in dB of the decoded frames to the decoded
        clean latents and to the original clips. `denoiser` is None for a model without one.

    Raises:
        StarflowError: NaN in a denoised clip.
    """
    methods = _methods(pipeline)
    values: dict[str, dict[str, list[Tensor]]] = {name: {metric: [] for metric in METRICS} for name in methods}
    shown: dict[str, list[Frames]] = {name: [] for name in methods}
    fps = caption_fps(pipeline, noisy)
    with tqdm(total=len(noisy), desc="denoising", unit="clip", disable=None) as bar:
        for batch in batches(pipeline, len(noisy), TOKENS_AT_ONCE):
            text = pipeline.encode_prompt(clips.captions[batch], fps)
            truth, reconstruction = to_tensor(clips.frames[batch]), to_tensor(clean.frames[batch])
            for name, denoise in methods.items():
                x = require_finite(denoise(noisy[batch], text), "a denoised clip")
                video = pipeline.codec.decode(x).cpu()
                error = (x - clean.latents[batch]).square().flatten(1).mean(dim=1).cpu()
                measured = (error, psnr(video, reconstruction), psnr(video, truth))
                for metric, value in zip(METRICS, measured, strict=True):
                    values[name][metric].append(value)
                shown[name] += list(to_frames(video[: max(NUM_SHOWN - batch.start, 0)]))
            bar.update(len(truth))
    results: dict[str, Any] = {"num_clips": len(noisy), "noise_std": pipeline.config.noise_std, "denoiser": None}
    for name, metrics in values.items():
        results[name] = {metric: summary(torch.cat(pieces)) for metric, pieces in metrics.items()}
    cards = [
        Card(caption, {"clean": clean.frames[index]} | {METHOD_TITLES[name]: shown[name][index] for name in methods})
        for index, caption in enumerate(clips.captions[:NUM_SHOWN])
    ]
    return Measured(results, cards)


def _methods(pipeline: StarFlowPipeline) -> dict[str, Denoise]:
    methods: dict[str, Denoise] = {
        "nothing": lambda x, text: x,
        "score_step": lambda x, text: score_step(pipeline.flow, x, text, pipeline.config.noise_std),
    }
    return methods if pipeline.denoiser is None else methods | {"denoiser": pipeline.denoise}
