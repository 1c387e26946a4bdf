"""Auxiliary losses, which are trained beside the likelihood of the clips. A config chooses one by name.

Legend: `B` batch, `T` latent frames, `D` latent channels, `H W` latent rows and columns, `M` text tokens.
"""

from typing import Protocol

from torch import Tensor, nn

from starflow.data.clip import ClipSource
from starflow.data.tasks import Batch
from starflow.flow.model import StarFlow
from starflow.registry import load_named

# The class of each loss, called with the flow and the source of the clips. A config may also give `module:Class`.
AUXILIARY_LOSSES = {"toyworld-grounding": "starflow.toyworld.teaching.grounding:GroundingLoss"}


class AuxiliaryLoss(Protocol):
    """A loss with parameters of its own, those of `module`, which are trained with the flow and then dropped.

    It is called by several threads at once.
    """

    module: nn.Module

    def __call__(self, batch: Batch, noisy: Tensor, text: Tensor) -> Tensor:
        """Nats per clip, `(B)`, from noisy latents `(B, T, D, H, W)` and text encodings `(B, M, text width)`.

        Gradients reach the flow's parameters and the text encodings, and not the latents.
        """
        ...


def build_auxiliary_loss(name: str, flow: StarFlow, source: ClipSource) -> AuxiliaryLoss:
    """The loss that `name` names. Raises UsageError if there is none, or it cannot learn from this source."""
    return load_named("auxiliary loss", name, AUXILIARY_LOSSES)(flow, source)
