"""Moving a part of an offloaded pipeline to its device.

The hooks of diffusers and accelerate move weights when a module is called. The flow, the denoiser's stream and the VAE
also have other methods, which call `onload` first.
"""

import torch
from torch import nn


@torch.inference_mode(False)
def onload(module: nn.Module) -> None:
    """Move a part of an offloaded pipeline to its device, as a call of the module does. Other modules do not move.

    Weights that are moved in inference mode would be of no use outside of it.
    """
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)
