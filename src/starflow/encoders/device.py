"""Bringing a part of an offloaded pipeline to the device that it computes on.

The hooks of diffusers and accelerate move weights when a module is called. The flow, the denoiser's stream and the VAE
are used through other methods too, and those call `onload` first.
"""

from torch import nn


def onload(module: nn.Module) -> None:
    """Bring a part of an offloaded pipeline to its device, as calling it would; does nothing for any other module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)
