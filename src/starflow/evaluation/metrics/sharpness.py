"""How sharp frames are: the steepness of their edges."""

import numpy as np
from numpy.typing import NDArray

from starflow.media.frames import Frames


def sharpness(clip: Frames, share: float = 1.0) -> NDArray[np.float32]:
    """The steepness of the edges in each frame of a clip `(F, height, width, 3)`: `(F,)`, as a share of white per px.

    This is the mean over the steepest `share` of the pixels of the norm of the gradient (central differences, all
    channels).
    """
    across = np.gradient(clip.astype(np.float32) / 255, axis=(1, 2))
    steepness = np.sqrt(sum((part**2).sum(axis=-1) for part in across)).reshape(len(clip), -1)
    num_pixels = round(share * steepness.shape[1])
    return np.sort(steepness, axis=1)[:, -num_pixels:].mean(axis=1)
