"""Checking that weights are finite."""

from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor, which must not be empty, has neither NaN nor infinities.

    Unlike `torch.isfinite(tensor).all()` it allocates nothing, which matters for large weights in mapped files.
    """
    return all(extreme.isfinite().item() for extreme in tensor.aminmax())  # with a NaN, both extremes are NaN
