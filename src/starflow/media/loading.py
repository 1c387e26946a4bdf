"""Pictures and clips from files, fitted to the size and the frame rate of a model; changes are reported."""

import os
from collections.abc import Callable

import numpy as np

from starflow.errors import StarflowError
from starflow.media.frames import Frame, Frames
from starflow.media.reading import Video, open_video

PathLike = str | os.PathLike[str]


def load_picture(path: PathLike, height: int, width: int, say: Callable[[str], None]) -> Frame:
    """A picture, or the first frame of a video: `(height, width, 3)`. `say` is told when it had to be fitted.

    Raises StarflowError if the file is missing, empty or corrupt.
    """
    video = open_video(path)
    _report_size(video, height, width, say)
    return next(video.frames(size=(height, width))).item


def load_clip(
    path: PathLike,
    height: int,
    width: int,
    fps: float,
    say: Callable[[str], None],
    *,
    max_frames: int | None = None,
    folder_fps: float | None = None,
) -> Frames:
    """A clip as `(F, height, width, 3)` at `fps`. `say` is told when it had to be fitted or resampled.

    Args:
        path: a video, an animation, or a folder of frames.
        height, width, fps: what it is fitted to.
        say: is told what was changed.
        max_frames: the most frames to read; None: all.
        folder_fps: the rate of a folder of frames; None: the one stored in it, or else `fps`.

    Raises:
        StarflowError: the file is missing, empty, corrupt or without video, or is a still image.
        UsageError: `folder_fps` is given for a file.
    """
    video = open_video(path, folder_fps)
    if video.is_image:
        raise StarflowError(f"{path} is a still image: a clip with several frames is needed")
    if not video.fps:
        say(f"{path} has no frame rate: its frames are taken to be at the {fps:g} fps of the model")
        video = open_video(path, fps)
    elif abs(video.fps - fps) > 1e-3 * fps:
        say(f"{path} has {video.fps:.4g} fps: resampled to the {fps:g} fps of the model")
    _report_size(video, height, width, say)
    return np.stack([frame.item for frame in video.frames(fps, (height, width), max_frames)])


def _report_size(video: Video, height: int, width: int, say: Callable[[str], None]) -> None:
    if (video.height, video.width) != (height, width):
        say(f"{video.path} is {video.width}×{video.height}: scaled and cropped to {width}×{height}")
