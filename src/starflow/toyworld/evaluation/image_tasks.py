"""Videos from pictures: image-to-video, and videos that end with a picture.

The pictures are the first and the last frames of held-out clips, the captions are those of the clips.

Legend: `n` clips, `F` video frames.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from starflow.evaluation.clips import CaptionedClips, Frames, to_video
from starflow.evaluation.generation import SamplingSettings, generate, sampling_results
from starflow.evaluation.measured import Card, Measured
from starflow.evaluation.metrics.reconstruction import clip_psnr, reconstruct
from starflow.evaluation.statistics import summary
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.compliance import score
from starflow.toyworld.reader.checker import check

IMAGE_TO_VIDEO, LAST, FIRST_AND_LAST = 3, 4, 5  # purposes of noise


def evaluate_image_to_video(
    pipeline: StarFlowPipeline,
    clips: CaptionedClips,
    reconstructions: Frames,
    settings: SamplingSettings,
    num_shown: int,
) -> Measured:
    """Whether a video begins with the picture given, goes on from it without a flicker, and follows its caption.

    Args:
        pipeline: the model.
        clips: held-out clips, whose first frames are the pictures.
        reconstructions: the clips through the VAE, `(n, F, height, width, 3)`.
        settings: how to generate.
        num_shown: how many clips to show.

    Returns:
        `first_frame`: summaries, in dB, of its PSNR to the picture, of that of the VAE's reconstruction of the picture,
        of the former less the latter, and the largest difference either way; `change` from frame to frame, of the
        generated clips and of the true ones through the VAE, see `change_at_joint`; `generated` and `ceiling`, of the
        VAE's reconstructions: see `score`.

    Raises:
        StarflowError: NaN in what was sampled.
    """
    pictures = clips.frames[:, 0]
    generated, report = generate(
        pipeline, clips.captions, settings, "image to video", purpose=IMAGE_TO_VIDEO, given={"image": pictures}
    )
    # The VAE is causal: the first frame of a clip's reconstruction is that of the frame alone.
    own, vae = frame_psnr(generated[:, 0], pictures), frame_psnr(reconstructions[:, 0], pictures)
    results = {
        "num_clips": len(pictures),
        "first_frame": {
            "psnr": summary(own),
            "vae_psnr": summary(vae),
            "difference": summary(own - vae),
            "largest_difference": (own - vae).abs().max().item(),
        },
        "change": {"generated": change_at_joint(generated), "true": change_at_joint(reconstructions)},
        "generated": score_all(generated, clips.captions),
        "ceiling": score_all(reconstructions, clips.captions),
        "sampling": sampling_results(report),
    }
    shown = zip(clips.captions[:num_shown], pictures, generated, clips.frames, strict=False)
    cards = [Card(text, {"given": picture[None], "made": made, "true": true}) for text, picture, made, true in shown]
    return Measured(results, cards)


def evaluate_last_frame(
    pipeline: StarFlowPipeline, clips: CaptionedClips, settings: SamplingSettings, num_shown: int
) -> Measured:
    """Whether a video ends with the picture given, alone or together with the first frame.

    Args, Raises: as `evaluate_image_to_video`.

    Returns:
        `vae_psnr`, of the VAE's reconstruction of the pictures, and for `last` and `first_and_last`: summaries in dB of
        `psnr`, of the final frame to the picture, and `other_psnr`, to the picture of another clip (None for a single
        clip); `generated`, see `score`.
    """
    pictures = clips.frames[:, -1]
    given: dict[str, dict[str, Frames]] = {
        "last": {"last_image": pictures},
        "first_and_last": {"last_image": pictures, "image": clips.frames[:, 0]},
    }
    through_vae = reconstruct(pipeline.codec, pictures[:, None], len(pictures), "last frame: ceiling").frames[:, 0]
    results: dict[str, Any] = {
        "num_clips": len(pictures),
        "vae_psnr": summary(frame_psnr(through_vae, pictures)),
    }
    made = {}
    for purpose, (name, things) in enumerate(given.items(), LAST):
        description = name.replace("_", " ")
        made[name], report = generate(pipeline, clips.captions, settings, description, purpose=purpose, given=things)
        final = made[name][:, -1]
        results[name] = {
            "psnr": summary(frame_psnr(final, pictures)),
            "other_psnr": summary(frame_psnr(final, np.roll(pictures, 1, axis=0))) if len(pictures) > 1 else None,
            "generated": score_all(made[name], clips.captions),
            "sampling": sampling_results(report),
        }
    shown = zip(clips.captions[:num_shown], pictures, made["last"], made["first_and_last"], strict=False)
    cards = [
        Card(caption, {"given": picture[None], "made": last, "first given too": both})
        for caption, picture, last, both in shown
    ]
    return Measured(results, cards)


def change_at_joint(clips: Frames) -> dict[str, Any]:
    """How much pictures change from one frame to the next: mean absolute difference, of 255.

    Returns summaries over clips of `first_step`, from frame 0 to 1, and of `later_steps`, the mean of all others.
    """
    steps = torch.from_numpy(np.abs(np.diff(clips.astype(np.float32), axis=1)).mean(axis=(2, 3, 4)))
    return {"first_step": summary(steps[:, 0]), "later_steps": summary(steps[:, 1:].mean(dim=1))}


def frame_psnr(frames: Frames, truth: Frames) -> Tensor:
    """PSNR in dB of each of `(n, height, width, 3)`: `(n,)`."""
    return clip_psnr(to_video(frames[:, None]), to_video(truth[:, None]))


def score_all(clips: Frames, captions: Sequence[str]) -> dict[str, Any]:
    """What the checker says of clips `(n, F, height, width, 3)` and their captions, see `score`."""
    return score([check(clip, caption) for clip, caption in zip(clips, captions, strict=True)])
