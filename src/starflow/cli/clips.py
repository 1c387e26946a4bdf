"""Read a clip from a file and fit it to a model; changes are reported on stderr."""

from typing import TYPE_CHECKING

from starflow.cli.common import say
from starflow.errors import StarflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from starflow.pipeline.pipeline import StarFlowPipeline


def read_clip(pipeline: "StarFlowPipeline", path: str, input_fps: float | None = None) -> "NDArray[np.uint8]":
    """Read a clip `(F, height, width, 3)` at the model's size and frame rate, and cut it to the model's length.

    `input_fps` is the frame rate of a folder of frames, instead of the one stored in it.

    Raises:
        StarflowError: the clip cannot be read, or has fewer than two latent frames.
    """
    from starflow.media.loading import load_clip, load_picture

    config, codec = pipeline.config, pipeline.codec
    if config.num_frames == 1:
        return load_picture(path, config.height, config.width, say)[None]
    size, longest = (config.height, config.width), config.num_frames + 1
    clip = load_clip(path, *size, config.fps, say, max_frames=longest, folder_fps=input_fps)
    num_frames = codec.largest_num_frames(min(len(clip), config.num_frames))
    if num_frames == 1:
        raise StarflowError(
            f"{path} is too short: it has {len(clip)} frames at {config.fps:g} fps, "
            f"the model needs at least {1 + codec.temporal_factor}"
        )
    if num_frames < len(clip):
        length = f"more than {config.num_frames}" if len(clip) > config.num_frames else str(len(clip))
        say(f"{path} has {length} frames at {config.fps:g} fps: the first {num_frames} are used to fit the model")
    return clip[:num_frames]
