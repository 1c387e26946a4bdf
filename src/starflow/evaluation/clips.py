"""Held-out clips, fitted to the videos of a model, and batches of them.

Legend: `n` clips, `F` video frames, `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from starflow.data.clip import Clip, ClipSource
from starflow.data.reading import open_clip
from starflow.errors import UsageError
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline


@dataclass(frozen=True)
class CaptionedClips:
    """Frames `(n, F, height, width, 3)`, the caption of each clip, and why other clips were left out."""

    frames: Frames
    captions: list[str]
    left_out: Sequence[str] = ()


def read_clips(source: ClipSource, pipeline: StarFlowPipeline, num_clips: int) -> CaptionedClips:
    """The first clips of a source, fitted to the size, frame rate and length of a model's videos.

    A video model leaves out pictures and clips that are too short. An image model takes the first frame of any clip.
    A log message gives the reason for each.

    Raises:
        UsageError: no clip can be used.
        StarflowError: the source cannot read a clip.
    """
    frames: list[Frames] = []
    captions: list[str] = []
    left_out: list[str] = []
    config = pipeline.config
    for index in range(len(source)):
        if len(frames) == num_clips:
            break
        with open_clip(source, index, config.fps) as opened:  # only what is needed is decoded
            clip = opened.read(0.0, config.num_frames, (config.height, config.width))
        if reason := _unusable(clip, pipeline):
            left_out.append(f'clip {index} ("{clip.captions[0]}") is left out: {reason}')
            logging.getLogger(__name__).warning(left_out[-1])
            continue
        frames.append(clip.video)
        captions.append(_caption(clip, pipeline))
    if not frames:
        raise UsageError(f"no clip can be used to evaluate this model: {left_out[0]}")
    return CaptionedClips(np.stack(frames), captions, left_out)


def batches(pipeline: StarFlowPipeline, num_clips: int, num_tokens: int) -> Iterator[slice]:
    """Slices that divide `num_clips` clips of the model's size into batches of about `num_tokens` latent tokens."""
    config = pipeline.config
    _, frames, _, rows, columns = pipeline.codec.latent_shape(1, config.num_frames, config.height, config.width)
    size = max(1, num_tokens // (frames * rows * columns))
    for start in range(0, num_clips, size):
        yield slice(start, min(start + size, num_clips))


def _unusable(clip: Clip, pipeline: StarFlowPipeline) -> str | None:
    """Why the model cannot be measured on a clip; None if it can."""
    config = pipeline.config
    if config.num_frames == 1:
        return None
    if not clip.fps:
        return "it is a picture, but the model makes videos"
    if len(clip.video) < config.num_frames:
        return f"it has {len(clip.video)} frames at {config.fps:g} per second, but the model needs {config.num_frames}"
    return None


def _caption(clip: Clip, pipeline: StarFlowPipeline) -> str:
    is_image = pipeline.config.num_frames == 1
    return (clip.image_captions or clip.captions)[0] if is_image else clip.captions[0]
