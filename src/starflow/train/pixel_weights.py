"""Weights of the pixels in the reconstruction loss of a VAE, chosen by name."""

from collections.abc import Callable

from torch import Tensor

from starflow.registry import load_named

# A function of a video (B, 3, F, height, width) in [-1, 1] that returns weights (B, 1, F, height, width).
PixelWeights = Callable[[Tensor], Tensor]

PIXEL_WEIGHTS = {"toyworld-objects": "starflow.toyworld.teaching.objects:object_weights"}


def load_pixel_weights(name: str | None) -> PixelWeights | None:
    """The function that a name of `PIXEL_WEIGHTS`, or a `module:function`, stands for; None for equal weights.

    Raises:
        UsageError: there is no such function.
    """
    return None if name is None else load_named("pixel weighting", name, PIXEL_WEIGHTS)
