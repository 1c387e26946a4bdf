"""The basis of the latents: principal axes, in which a trained autoencoder's channels are uncorrelated.

An affine block of the flow predicts a Gaussian with independent channels for each token. The channels of a freshly
trained autoencoder are strongly correlated, and such a Gaussian fits them badly; turned to their principal axes, which
changes nothing about the autoencoder's reconstructions, they suit it. All channels keep one common scale, so that the
noise added in training stays isotropic and drowns the axes along which the latents hardly vary.

Legend: n tokens, D latent channels.
"""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor


@torch.no_grad()
def turn_to_principal_axes(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Fold the rotation into the 1×1×1 convolutions at the latents, so that their channels are principal axes.

    The encoder's means turn, and the decoder turns them back. The log-variances stay those of the former channels.

    Args:
        vae: changed in place; its reconstructions stay what they are.
        latents: (n, D) posterior means of training clips, float64; the widest axis becomes the first channel.

    Returns:
        The latents (n, D) as the turned autoencoder gives them.
    """
    channels = latents.shape[1]
    _, axes = torch.linalg.eigh(torch.cov(latents.T))
    axes = axes.flip(1)  # columns, the widest first
    encode, decode = vae.quant_conv, vae.post_quant_conv
    weight, bias = encode.weight[:channels].double(), encode.bias[:channels].double()
    encode.weight[:channels] = torch.einsum("ij,ikxyz->jkxyz", axes, weight).to(encode.weight)
    encode.bias[:channels] = (axes.T @ bias).to(encode.bias)
    decode.weight.copy_(torch.einsum("okxyz,kj->ojxyz", decode.weight.double(), axes))
    return latents @ axes
