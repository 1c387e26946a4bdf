"""The losses of the flow and the denoiser, the target of flow-score matching, and the noise of training.

    -log p(x) = sum over elements of 0.5·z² - log_det + 0.5·log 2π

Source: STARFlow-V, arXiv 2511.20462.

Legend: `B` batch, `T` latent frames, `K` given latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from math import log, pi

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from starflow.flow.model import Encoded

# The released models' unit of noise: the training loss is weighted by noise_std / 0.3.
NOISE_UNIT = 0.3


def negative_log_likelihood(encoded: Encoded) -> Tensor:
    """`-log p(x)` of each element `(B, T, D, H, W)`, in nats."""
    return _nats(encoded) + 0.5 * log(2 * pi)


def flow_loss(encoded: Encoded) -> Tensor:
    """The mean over all elements of the negative log-likelihood without its constant."""
    return _nats(encoded).mean()


def training_loss(encoded: Encoded, noise_std: float, num_given: int = 0) -> Tensor:
    """`noise_std/0.3` times the flow's loss over the generated frames: all but the first `K = num_given`."""
    return noise_std / NOISE_UNIT * _nats(encoded)[:, num_given:].mean()


def score_prediction(input_grad: Tensor, noise_std: float) -> Tensor:
    """The denoiser's target from `∂flow_loss/∂x` of a batch, shaped like `x`: `noise_std²/0.3 · ∇(-log p(x))`.

    `flow_loss` is a mean over the batch's elements; their number undoes it.
    """
    return training_score(input_grad, noise_std, input_grad.numel()) * (noise_std / NOISE_UNIT)


def training_score(input_grad: Tensor, noise_std: float, num_elements: int) -> Tensor:
    """`score_prediction` from `∂training_loss/∂x`, where that loss is a mean over `num_elements`."""
    return noise_std * num_elements * input_grad


def add_noise(
    latents: Tensor, noise_std: float, generator: torch.Generator | list[torch.Generator] | None = None
) -> Tensor:
    """`latents + noise_std·ε` with `ε ~ N(0, I)`, whose density the flow models. A list has a generator per sample.

    The noise is drawn in float32, so that a seed gives the same noise in every precision.
    """
    return latents + noise_std * randn_tensor(latents.shape, generator, latents.device, torch.float32)


def _nats(encoded: Encoded) -> Tensor:
    return 0.5 * encoded.z.square() - encoded.log_det
