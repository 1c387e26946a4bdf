"""Whether weights are numbers."""

from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor (of a floating-point dtype, not empty) has neither NaN nor infinities.

    In one pass and no memory of its own, unlike `torch.isfinite(tensor).all()`: the weights of a large model take
    seconds, and may lie in a file that is mapped.
    """
    return all(extreme.isfinite().item() for extreme in tensor.aminmax())  # a NaN is both
