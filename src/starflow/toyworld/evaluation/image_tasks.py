"""Videos from pictures: image-to-video, and videos that end with a given picture.

The pictures are the first and the last frames of held-out clips, and the captions are those of the clips.

Legend: `n` clips, `F` video frames.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.settings import EvaluationSettings
from starflow.evaluation.statistics import summary
from starflow.media.frames import Frames, psnr, to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.compliance import score
from starflow.toyworld.reader.checker import check

IMAGE_TO_VIDEO, LAST, FIRST_AND_LAST = 3, 4, 5  # purposes of noise
NUM_SHOWN = 4


def evaluate_image_to_video(
    pipeline: StarFlowPipeline, clips: CaptionedClips, settings: EvaluationSettings
) -> Measured:
    """Measure whether a video starts with the given picture, continues without a flicker, and follows its caption.

    The pictures are the first frames of the clips. The ceiling is the autoencoder's reconstruction of the clips.

    Returns:
        `first_frame`: summaries in dB of its PSNR to the picture (`psnr`), of the PSNR of the picture's reconstruction
        (`vae_psnr`) and of the former minus the latter (`difference`), and the `largest_difference` in absolute value;
        `change` from frame to frame, of `generated` clips and of the ceiling (`true`), see `change_at_joint`;
        `generated` and `ceiling`, see `score`; and `sampling`.

    Raises:
        StarflowError: NaN in a sample.
    """
    pictures = clips.frames[:, 0]
    ceiling = reconstruct(pipeline, clips.frames, "image to video: ceiling").frames
    generated, report = generate(
        pipeline, clips.captions, settings, "image to video", purpose=IMAGE_TO_VIDEO, given={"image": pictures}
    )
    # The autoencoder is causal: the first frame of a clip's reconstruction is that of the frame alone.
    own, vae = frame_psnr(generated[:, 0], pictures), frame_psnr(ceiling[:, 0], pictures)
    results = {
        "num_clips": len(pictures),
        "first_frame": {
            "psnr": summary(own),
            "vae_psnr": summary(vae),
            "difference": summary(own - vae),
            "largest_difference": (own - vae).abs().max().item(),
        },
        "change": {"generated": change_at_joint(generated), "true": change_at_joint(ceiling)},
        "generated": score_all(generated, clips.captions),
        "ceiling": score_all(ceiling, clips.captions),
        "sampling": sampling_results(report),
    }
    shown = zip(clips.captions[:NUM_SHOWN], pictures, generated, clips.frames, strict=False)
    cards = [Card(text, {"given": picture[None], "made": made, "true": true}) for text, picture, made, true in shown]
    return Measured(results, cards)


def evaluate_last_frame(pipeline: StarFlowPipeline, clips: CaptionedClips, settings: EvaluationSettings) -> Measured:
    """Measure whether a video ends with the given picture, which is given alone or with the first frame.

    Returns:
        `vae_psnr`, of the autoencoder's reconstruction of the pictures, and for `last` and `first_and_last`: summaries
        in dB of the PSNR of the final frame to the picture (`psnr`) and to that of another clip (`other_psnr`, None for
        a single clip); `generated`, see `score`; and `sampling`.

    Raises:
        StarflowError: NaN in a sample.
    """
    pictures = clips.frames[:, -1]
    given: dict[str, dict[str, Frames]] = {
        "last": {"last_image": pictures},
        "first_and_last": {"last_image": pictures, "image": clips.frames[:, 0]},
    }
    through_vae = reconstruct(pipeline, pictures[:, None], "last frame: ceiling").frames[:, 0]
    results: dict[str, Any] = {
        "num_clips": len(pictures),
        "vae_psnr": summary(frame_psnr(through_vae, pictures)),
    }
    made = {}
    for purpose, (name, options) in enumerate(given.items(), LAST):
        description = name.replace("_", " ")
        made[name], report = generate(pipeline, clips.captions, settings, description, purpose=purpose, given=options)
        final = made[name][:, -1]
        results[name] = {
            "psnr": summary(frame_psnr(final, pictures)),
            "other_psnr": summary(frame_psnr(final, np.roll(pictures, 1, axis=0))) if len(pictures) > 1 else None,
            "generated": score_all(made[name], clips.captions),
            "sampling": sampling_results(report),
        }
    shown = zip(clips.captions[:NUM_SHOWN], pictures, made["last"], made["first_and_last"], strict=False)
    cards = [
        Card(caption, {"given": picture[None], "made": last, "first given too": both})
        for caption, picture, last, both in shown
    ]
    return Measured(results, cards)


def change_at_joint(clips: Frames) -> dict[str, Any]:
    """The mean absolute difference between successive frames, in gray levels from 0 to 255.

    Returns:
        Summaries over clips of `first_step`, from frame 0 to frame 1, and of `later_steps`, the mean of all others.
    """
    steps = torch.from_numpy(np.abs(np.diff(clips.astype(np.float32), axis=1)).mean(axis=(2, 3, 4)))
    return {"first_step": summary(steps[:, 0]), "later_steps": summary(steps[:, 1:].mean(dim=1))}


def frame_psnr(frames: Frames, truth: Frames) -> Tensor:
    """PSNR in dB of each of the frames `(n, height, width, 3)`: `(n,)`."""
    return psnr(to_tensor(frames), to_tensor(truth))


def score_all(clips: Frames, captions: Sequence[str]) -> dict[str, Any]:
    """`score` of clips `(n, F, height, width, 3)` and their captions."""
    return score([check(clip, caption) for clip, caption in zip(clips, captions, strict=True)])
