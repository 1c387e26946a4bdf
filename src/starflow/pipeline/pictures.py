"""Pictures and clips in every form that the pipeline accepts, as uint8 frames.

A picture has three dimensions, a clip four. A PIL image counts as three, a list adds one, and a path names one picture
or clip. So `frames` of a pipeline's output, in any output type, is a batch of clips.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starflow.errors import UsageError
from starflow.media.frames import Frames, from_unit

Picture = Image.Image | NDArray[Any] | Tensor | str | Path
VideoClip = NDArray[Any] | Tensor | Sequence[Image.Image | NDArray[Any] | Tensor] | str | Path

PICTURE, CLIP = 3, 4  # dimensions


def one_each(name: str, value: Any, num_prompts: int, num_dims: int) -> list[Any]:
    """The picture (`num_dims` is `PICTURE`) or the clip (`CLIP`) for each prompt.

    A single prompt takes one value, or a list of one. Raises UsageError if there are more or fewer, or none.
    """
    depth = _num_dims(name, value, num_dims)
    if depth == num_dims and num_prompts == 1:
        return [value]
    if depth == num_dims + 1 and len(value) == num_prompts:
        return list(value)
    what = "picture" if num_dims == PICTURE else "clip"
    if num_prompts == 1:
        raise UsageError(f"{name} must be one {what} for one prompt, not {_described(value)}")
    raise UsageError(
        f"{name} must be a list with one {what} for each of the {num_prompts} prompts, not {_described(value)}"
    )


def to_uint8(name: str, value: Any) -> Frames:
    """Images, arrays and tensors → uint8 `(…, height, width, 3)`.

    Args:
        name: of the argument, for messages.
        value: a PIL image; an array `(…, height, width, 3)` or a tensor `(…, 3, height, width)`, or either with the
            channels in the other place, uint8 or floats in [0, 1]; or a list of these.

    Raises:
        UsageError: the value is empty, is not RGB, has another dtype or range, or its frames differ in size.
    """
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"))
    if isinstance(value, list | tuple):
        frames = [to_uint8(name, each) for each in value]
        if len({frame.shape for frame in frames}) != 1:
            raise UsageError(f"the frames of {name} must have the same size, and there must be at least one")
        return np.stack(frames)
    if not isinstance(value, np.ndarray | Tensor):
        raise UsageError(f"{name} cannot be {_described(value)}: give PIL images, arrays, tensors or a path")
    array = _channels_last(name, value)
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"{name} must be uint8, or floats in [0, 1], not {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):  # also if there is a NaN
        raise UsageError(f"floats of {name} must be in [0, 1], not {array.min():g} to {array.max():g}")
    return from_unit(array)


def _channels_last(name: str, value: NDArray[Any] | Tensor) -> NDArray[Any]:
    places = (-3, -1) if isinstance(value, Tensor) else (-1, -3)
    place = next((place for place in places if value.ndim >= PICTURE and value.shape[place] == 3), None)
    if place is None or 0 in value.shape:
        raise UsageError(f"{name} must be RGB pictures with 3 channels, not {_described(value)}")
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.to(torch.float32) if value.is_floating_point() else value).numpy()
    return np.moveaxis(value, place, -1)


def _num_dims(name: str, value: Any, of_path: int) -> int:
    """The number of dimensions of a value; `of_path` is that of a path."""
    if isinstance(value, str | Path):
        return of_path
    if isinstance(value, Image.Image):
        return PICTURE
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim
    if not isinstance(value, list | tuple):
        raise UsageError(f"{name} cannot be {_described(value)}: give PIL images, arrays, tensors or a path")
    if not value:
        raise UsageError(f"{name} is empty")
    return 1 + _num_dims(name, value[0], of_path)


def _described(value: Any) -> str:
    """A value in words, for messages."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{value.dtype} of the shape {tuple(value.shape)}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | tuple) else type(value).__name__
