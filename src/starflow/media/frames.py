"""Frames as arrays and as tensors: conversion, resizing, resampling, and PSNR.

Legend: `F` video frames. Frames are uint8 `(…, height, width, 3)` in RGB, video tensors `(…, 3, height, width)` in
[-1, 1].
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from starflow.media.timing import Timed, at_rate

Frame = NDArray[np.uint8]  # (height, width, 3)
Frames = NDArray[np.uint8]


def to_tensor(frames: Frames) -> Tensor:
    """Frames → a video tensor, float32."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1


def to_frames(video: Tensor) -> Frames:
    """A video tensor → frames, rounded; values outside [-1, 1] are clamped."""
    return ((video.movedim(-3, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def from_unit(images: NDArray[np.floating]) -> Frames:
    """Images `(…, height, width, 3)` in [0, 1], as diffusers returns them, → frames, rounded."""
    return (images * 255).round().astype(np.uint8)


def psnr(video: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each video tensor `(B, …)` in dB: `(B,)`.

    `10·log10(4 / mean squared error)`, as the values span a range of 2. Equal videos have 106 dB.
    """
    error = (video - truth).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def fit_frames(frames: Frames, height: int, width: int) -> Frames:
    """Scale frames `(F, h, w, 3)` to cover `height`×`width` pixels, and crop the rest evenly."""
    if frames.shape[1:3] == (height, width):
        return frames
    rows, columns = frames.shape[1] - height, frames.shape[2] - width
    if min(rows, columns) == 0 and rows % 2 == columns % 2 == 0:  # nothing to scale
        return frames[:, rows // 2 : rows // 2 + height, columns // 2 : columns // 2 + width]
    return np.stack([np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height))) for frame in frames])


def resample(frames: Frames, fps: float, new_fps: float) -> Frames:
    """Repeat or drop frames to change the frame rate, like `starflow.media.timing.at_rate`.

    The first frame stays the first, and the time from the first to the last frame is kept to the nearest frame: 33
    frames at 16 fps become 17 at 8 fps.
    """
    return frames[resampled(len(frames), fps, new_fps)]


def resampled(num_frames: int, fps: float, new_fps: float) -> list[int]:
    """The numbers of the frames that `resample` shows."""
    times = (Timed(index / fps, (index + 1) / fps, index) for index in range(num_frames))
    return [shown.item for shown in at_rate(times, new_fps)]
