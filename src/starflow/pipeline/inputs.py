"""Pictures and clips that are given with the prompt: fitted to the model, and encoded to latents.

One causal model does every task. The given frames come before the generated frames, and a marker before the caption
names the task (STARFlow-V, arXiv 2511.20462):

    image                            [image | video …]
    continuation   (extend)          [clip | next frames …]; marked once the rolling window has left the start
    video-to-video (v2v)             [source clip, hidden | target clip …]
    last frame     (last)            [last frame, hidden | video …]; a given first frame follows the last one

Legend: `B` batch, `F` video frames, `K` given latent frames, `D` latent channels, `H W` latent rows and columns.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from starflow.encoders.text import LAST, VIDEO_TO_VIDEO
from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.media.frames import fit_frames, to_tensor
from starflow.media.loading import load_clip, load_picture
from starflow.pipeline.options import Options
from starflow.pipeline.pictures import CLIP, PICTURE, VideoClip, one_each, to_uint8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """Clean latents `(B, K, D, H, W)` in front of the video; the first `num_hidden` frames are not shown."""

    latents: Tensor
    num_hidden: int = 0
    marker: str = ""

    @property
    def num_frames(self) -> int:
        """`K`."""
        return self.latents.shape[1]


def encode_given(codec: VideoCodec, asked: Options, num_prompts: int) -> Given | None:
    """The latents of the pictures or clips for each of `B` videos, `num_videos_per_prompt` for each prompt; None if
    there are none.

    Args:
        codec: the autoencoder.
        asked: `image`, `last_image`, `video` and `extend`, and the size and rate of the videos. Everything is scaled
            and cropped to the size (`fit_frames`); files are resampled to the rate.
        num_prompts: number of prompts.

    Raises:
        UsageError: the arguments exclude each other, the VAE cannot encode the number of frames of a clip, or a picture
            or clip is not as in `to_uint8`, or not one for each prompt.
        StarflowError: a file is missing, empty or corrupt.
    """
    has_picture = asked.image is not None or asked.last_image is not None
    if sum([asked.video is not None, asked.extend is not None, has_picture]) > 1:
        raise UsageError("image or last_image, video, and extend exclude each other: give one of them")
    if (video := _encode_argument(codec, asked, "video", num_prompts)) is not None:
        return Given(video, video.shape[1], VIDEO_TO_VIDEO)
    if (clip := _encode_argument(codec, asked, "extend", num_prompts)) is not None:
        return Given(clip)
    first, last = (_encode_argument(codec, asked, name, num_prompts) for name in ("image", "last_image"))
    if last is None:
        return None if first is None else Given(first)
    return Given(last if first is None else torch.cat([last, first], dim=1), 1, LAST)


def _encode_argument(codec: VideoCodec, asked: Options, name: str, num_prompts: int) -> Tensor | None:
    """Clean latents `(B, K, D, H, W)` of the argument called `name`; None if it is not given."""
    value = getattr(asked, name)
    if value is None:
        return None
    is_picture = name in ("image", "last_image")
    things = one_each(name, value, num_prompts, PICTURE if is_picture else CLIP)
    latents = _encode_pictures(codec, asked, name, things) if is_picture else _encode_clips(codec, asked, name, things)
    return latents.repeat_interleave(asked.num_videos_per_prompt or 1, dim=0)


def _encode_pictures(codec: VideoCodec, asked: Options, name: str, pictures: list[Any]) -> Tensor:
    size = _size(asked)
    frames = [load_picture(each, *size, logger.info) if _is_path(each) else each for each in pictures]
    return encode_clips(codec, [[frame] for frame in frames], size, name)


def _encode_clips(codec: VideoCodec, asked: Options, name: str, clips: list[Any]) -> Tensor:
    size = _size(asked)
    if all(_are_latents(codec, clip, size) for clip in clips):
        return torch.stack(clips)
    fps = cast(float, asked.fps)
    clips = [load_clip(clip, *size, fps, logger.info) if _is_path(clip) else clip for clip in clips]
    return encode_clips(codec, clips, size, name)


def _size(asked: Options) -> tuple[int, int]:
    """Height and width, which have a value in options with defaults."""
    return cast(int, asked.height), cast(int, asked.width)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path)


def _are_latents(codec: VideoCodec, clip: Any, size: tuple[int, int]) -> bool:
    """Whether a clip is `(K, D, H, W)` of the output type `latent`."""
    return isinstance(clip, Tensor) and clip.shape[1:] == codec.latent_shape(1, 1, *size)[2:]


def encode_clips(
    codec: VideoCodec, clips: Sequence[VideoClip], size: tuple[int, int], name: str = "the clip"
) -> Tensor:
    """Clean latents `(B, T, D, H, W)` of clips, which are fitted to `size`, height and width.

    Raises UsageError if their lengths differ, the VAE cannot encode them, or one is not as in `to_uint8`; `name` is
    for the message.
    """
    arrays = [fit_frames(to_uint8(name, clip), *size) for clip in clips]
    if len({len(array) for array in arrays}) > 1:
        raise UsageError("the clips of a batch must have the same number of frames")
    return codec.encode(to_tensor(np.stack(arrays)))
