"""Auxiliary losses, which are added to the loss of the flow. A config chooses one by name.

Legend: `B` batch, `T` latent frames, `D` latent channels, `H W` latent rows and columns, `M` text tokens.
"""

from typing import Protocol

from torch import Tensor, nn

from starflow.data.clip import ClipSource
from starflow.data.tasks import Batch
from starflow.flow.model import StarFlow
from starflow.registry import load_named

# The class of each loss. Its arguments are the flow and the source of the clips. A config may also give `module:Class`.
AUXILIARY_LOSSES = {"toyworld-grounding": "starflow.toyworld.teaching.grounding:GroundingLoss"}


class AuxiliaryLoss(Protocol):
    """A loss with its own parameters, those of `module`. They are trained with the flow and not saved with the model.

    Several threads call it at once.
    """

    module: nn.Module

    def __call__(self, batch: Batch, noisy: Tensor, text: Tensor) -> Tensor:
        """Nats per clip, `(B)`, from noisy latents `(B, T, D, H, W)` and text encodings `(B, M, text width)`.

        Gradients reach the parameters of the flow and the text encodings, but not the latents.
        """
        ...


def build_auxiliary_loss(name: str, flow: StarFlow, source: ClipSource) -> AuxiliaryLoss:
    """The loss of this name. Raises UsageError if it is unknown, or does not support this source."""
    return load_named("auxiliary loss", name, AUXILIARY_LOSSES)(flow, source)
