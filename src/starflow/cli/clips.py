"""A clip from a file as a model can take it; what is changed about it is said on stderr."""

from typing import TYPE_CHECKING

from starflow.cli.common import say
from starflow.errors import StarflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from starflow.pipeline.pipeline import StarFlowPipeline


def read_clip(pipeline: "StarFlowPipeline", path: str) -> "NDArray[np.uint8]":
    """The clip `(F, height, width, 3)` of a file at the model's size and rate, as long as the model's at most.

    Raises:
        StarflowError: it cannot be read, or is shorter than a latent frame.
    """
    from starflow.pipeline.inputs import load_clip, load_picture

    config, codec = pipeline.config, pipeline.codec
    if config.num_frames == 1:
        return load_picture(path, config.height, config.width, say)[None]
    clip = load_clip(path, config.height, config.width, config.fps, say)
    num_frames = codec.largest_num_frames(min(len(clip), config.num_frames))
    if num_frames == 1:
        raise StarflowError(
            f"{path} is too short: {len(clip)} frames at {config.fps:g} fps, and a latent frame takes "
            f"{codec.temporal_factor} after the first"
        )
    if num_frames < len(clip):
        say(f"{path} has {len(clip)} frames: the first {num_frames} are used, which is what the model can take")
    return clip[:num_frames]
