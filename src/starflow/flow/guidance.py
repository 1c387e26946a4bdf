"""Classifier-free guidance of Gaussians (STARFlow, arXiv 2506.06276; used unchanged by STARFlow-V)."""

from torch import Tensor


def weight_of(guidance_scale: float) -> float:
    """The weight `w` of `guide` for the scale that users give: as in diffusers, 1 and less is no guidance."""
    return max(0.0, guidance_scale - 1)


def guide(mu_c: Tensor, sigma_c: Tensor, mu_u: Tensor, sigma_u: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the guided Gaussian, elementwise. All tensors have the same shape.

    With `s = min(sigma_c / sigma_u, 1)²` and `w = weight`:
    `sigma = sigma_c / sqrt(1 + w - w·s)`, `mu = ((1 + w)·mu_c - w·s·mu_u) / (1 + w - w·s)`. `w = 0` is no guidance.
    """
    s = (sigma_c / sigma_u).clamp(max=1).square()
    precision = 1 + weight - weight * s
    return ((1 + weight) * mu_c - weight * s * mu_u) / precision, sigma_c / precision.sqrt()
