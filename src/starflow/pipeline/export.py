"""Writing the frames of a pipeline to a file."""

import os
from pathlib import Path
from typing import Any

from starflow.media.video import write_video
from starflow.pipeline.pictures import CLIP, one_each, to_uint8


def export_to_video(frames: Any, path: str | os.PathLike[str], fps: float) -> Path:
    """Write a video, as `export_to_video` of diffusers does, in the format of the extension (`write_video`).

    Args:
        frames: `frames` of an output for one prompt, or one clip of several, of any output type but `latent`; PIL
            images, arrays or tensors as in `starflow.pipeline.pictures`.
        path: a file or a folder.
        fps: frames per second.

    Returns:
        The path written.

    Raises:
        UsageError: the frames are several clips or not RGB, or `write_video` cannot write such a file.
        StarflowError: the folder to write contains other files.
    """
    (clip,) = one_each("frames", frames, 1, CLIP)
    return write_video(path, to_uint8("frames", clip), fps)
