"""The basis of the latents: principal axes, in which a trained autoencoder's channels are uncorrelated.

An affine block of the flow predicts a Gaussian with independent channels for each token. The channels of a freshly
trained autoencoder are strongly correlated, and such a Gaussian fits them badly. It fits well once the channels are the
principal axes of the latents, and the autoencoder's reconstructions do not change. All channels keep one scale: the
noise added in training stays isotropic, and covers the axes along which the latents hardly vary.

Legend: B batch, T latent frames, H W latent rows and columns, D latent channels, n tokens.
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


def normalise_latents(vae: AutoencoderKLWan, latents: Tensor) -> None:
    """Turn the latents to their principal axes, and store their mean and scale in the config (`VideoCodec` uses them).

    The first frames of clips then have mean 0 and variance 1, with one scale for all channels.

    Args:
        vae: changed in place; its reconstructions stay what they are.
        latents: (B, D, T, H, W) posterior means of training clips, float64.
    """
    turned = turn_to_principal_axes(vae, latents.movedim(1, -1).flatten(0, 3))
    mean = turned.mean(dim=0)
    first_frames = turned.view(latents.shape[0], latents.shape[2], -1, len(mean))[:, 0]
    std = (first_frames - mean).square().mean().sqrt().item()
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=[std] * len(mean))
