"""A clip from a file as a model can take it; what is changed about it is said on stderr."""

from typing import TYPE_CHECKING

import click

from starflow.errors import StarflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from starflow.pipeline import StarFlowPipeline


def read_clip(pipeline: "StarFlowPipeline", path: str) -> "NDArray[np.uint8]":
    """The clip `(F, height, width, 3)` of a file at the model's size and rate, as long as the model's at most.

    Raises:
        StarflowError: it cannot be read, or is shorter than a latent frame.
    """
    from starflow.conditioning import load_clip, load_picture

    config, codec = pipeline.config, pipeline.codec
    if config.num_frames == 1:
        return load_picture(path, config.height, config.width, _say)[None]
    clip = load_clip(path, config.height, config.width, config.fps, _say)
    longest = min(len(clip), config.num_frames)
    allowed = [n for n in range(2, longest + 1) if codec.nearest_num_frames(n) == n]
    if not allowed:
        raise StarflowError(
            f"{path} is too short: {len(clip)} frames at {config.fps:g} fps, and a latent frame takes "
            f"{codec.temporal_factor} after the first"
        )
    if allowed[-1] < len(clip):
        _say(f"{path} has {len(clip)} frames: the first {allowed[-1]} are used, which is what the model can take")
    return clip[: allowed[-1]]


def _say(message: str) -> None:
    click.echo(message, err=True)
