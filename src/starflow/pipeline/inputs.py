"""Pictures and clips that are given with the prompt: fitted to the model, and encoded to latents.

One causal model does every task. The given frames come before the generated frames, and a marker before the caption
names the task (STARFlow-V, arXiv 2511.20462):

    image                            [image | video …]
    continuation   (extend)          [clip | next frames …]; marked once the rolling window has left the start
    video-to-video (v2v)             [source clip, hidden | target clip …]
    last frame     (last)            [last frame, hidden | video …]; a given first frame follows the last one

Legend: `B` batch, `F` video frames, `K` given latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starflow.encoders.text import LAST, VIDEO_TO_VIDEO
from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.media.frames import Frames, fit_frames, to_tensor

Picture = Image.Image | NDArray[np.uint8]
VideoClip = NDArray[np.uint8] | Sequence[Image.Image]


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


def encode_given(
    codec: VideoCodec,
    size: tuple[int, int],
    *,
    image: Sequence[Picture] | None = None,
    last_image: Sequence[Picture] | None = None,
    video: Sequence[VideoClip] | None = None,
    extend: Sequence[VideoClip] | None = None,
) -> Given | None:
    """The latents of the pictures or clips for each of `B` videos; None if there are none.

    Args:
        codec: the autoencoder.
        size: height and width of the videos; everything is scaled and cropped to them (`fit_frames`).
        image: first frames.
        last_image: last frames.
        video: clips to edit.
        extend: clips to continue.

    Raises:
        UsageError: the arguments exclude each other, the VAE cannot encode the number of frames of a clip, or a picture
            or clip is not uint8 RGB.
    """
    if sum([video is not None, extend is not None, image is not None or last_image is not None]) > 1:
        raise UsageError("image or last_image, video, and extend exclude each other: give one of them")
    if video is not None:
        latents = encode_clips(codec, video, size)
        return Given(latents, latents.shape[1], VIDEO_TO_VIDEO)
    if extend is not None:
        return Given(encode_clips(codec, extend, size))
    first, last = (
        None if pictures is None else _encode_images(codec, pictures, size) for pictures in (image, last_image)
    )
    if last is None:
        return None if first is None else Given(first)
    return Given(last if first is None else torch.cat([last, first], dim=1), 1, LAST)


def one_each(name: str, value: Any, prompt: str | Sequence[str]) -> Sequence[Any] | None:
    """A list with a value for each prompt; a single prompt has a single value. Raises UsageError on a mismatch."""
    if value is None or isinstance(prompt, str):
        return None if value is None else [value]
    if not isinstance(value, Sequence) or len(value) != len(prompt):
        raise UsageError(f"{name} must be a list with one value for each of the {len(prompt)} prompts")
    return value


def _encode_images(codec: VideoCodec, images: Sequence[Picture], size: tuple[int, int]) -> Tensor:
    return encode_clips(codec, [[image] if isinstance(image, Image.Image) else image[None] for image in images], size)


def encode_clips(codec: VideoCodec, clips: Sequence[VideoClip], size: tuple[int, int]) -> Tensor:
    """Clean latents `(B, T, D, H, W)` of clips, which are fitted to `size`, height and width.

    Raises UsageError if their lengths differ, the VAE cannot encode them, or one is not uint8 RGB.
    """
    arrays = [fit_frames(_to_array(clip), *size) for clip in clips]
    if len({len(array) for array in arrays}) > 1:
        raise UsageError("the clips of a batch must have the same number of frames")
    return codec.encode(to_tensor(np.stack(arrays)))


def _to_array(clip: VideoClip) -> Frames:
    array = clip if isinstance(clip, np.ndarray) else np.stack([np.asarray(image.convert("RGB")) for image in clip])
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or len(array) == 0:
        raise UsageError(f"a picture or clip must be PIL images or uint8 RGB arrays, not {array.dtype} {array.shape}")
    return array
