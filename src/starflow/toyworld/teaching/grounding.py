"""Grounding: an auxiliary loss that teaches the deep block which object of the caption is where.

The likelihood of a clip hardly depends on this. If two objects move as the caption says, knowing which object has which
motion is worth `log 2` of a clip's thousands of nats. So a linear head, which is used only in training, predicts the
color, shape and motion of the object at every token of the first frame, from the hidden state after half the layers of
the deep block. Its cross-entropy trains these layers and the text encoder, in addition to the likelihood.

Legend: `B` batch, `T` latent frames, `H W` latent rows and columns, `D` latent channels, `C` width, `M` text tokens.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starflow.data.clip import ClipSource
from starflow.data.tasks import Batch
from starflow.errors import UsageError
from starflow.flow.model import StarFlow
from starflow.flow.transformer import CausalAttend
from starflow.toyworld.source import Toyworld
from starflow.toyworld.teaching.cells import ATTRIBUTES, NOTHING, ground


class GroundingLoss:
    """The auxiliary loss `toyworld-grounding` (`starflow.train.auxiliary.AuxiliaryLoss`)."""

    def __init__(self, flow: StarFlow, source: ClipSource) -> None:
        """Raises UsageError if the clips are not toyworld's."""
        if not isinstance(source, Toyworld):
            raise UsageError(
                "the auxiliary loss toyworld-grounding needs the clips of toyworld: set data.source=toyworld"
            )
        self.flow, self.source = flow, source
        self.module = GroundingHead(flow.config["deep_width"])
        self._ground = lru_cache(maxsize=None)(self._ground_scene)

    def __call__(self, batch: Batch, noisy: Tensor, text: Tensor) -> Tensor:
        """The cross-entropy `(B)` of the objects in the first generated frame."""
        with torch.no_grad():
            u = self.flow.encode_shallow(noisy[:, : batch.num_given + 1])
        states = states_halfway(self.flow, u, text, batch.num_given)
        return self.module(states, self.cells(batch).to(noisy.device))

    def cells(self, batch: Batch) -> Tensor:
        """The labels of each clip, int8 `(B, 3, H, W)`: what its caption says about the first generated frame."""
        grid = (batch.latents.shape[3], batch.latents.shape[4])
        is_edit = batch.task == "video_to_video"
        cells = torch.stack([self._ground(index, is_edit, *grid) for index in batch.indices])
        if batch.task == "extend":  # its first frame is not the scene's
            cells.fill_(NOTHING)
        if batch.is_image:
            cells[:, list(ATTRIBUTES).index("motion")] = NOTHING
        return cells.masked_fill(torch.tensor(batch.dropped).view(-1, 1, 1, 1), NOTHING)

    def _ground_scene(self, index: int, is_edit: bool, num_rows: int, num_columns: int) -> Tensor:
        scene = self.source.edited_scene(index)[1] if is_edit else self.source.scene(index)
        return torch.from_numpy(ground(scene, num_rows, num_columns))


class GroundingHead(nn.Module):
    """Logits of each of toyworld's attributes from a state of width `C`."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in ATTRIBUTES.values())

    def forward(self, states: Tensor, cells: Tensor) -> Tensor:
        """Cross-entropy `(B)`, in nats, from `states` `(B, H·W, C)` and the labels `cells` `(B, 3, H, W)`."""
        states = F.layer_norm(states, states.shape[-1:])
        losses = [
            F.cross_entropy(head(states).float().mT, labels.long(), ignore_index=NOTHING, reduction="none").sum(dim=1)
            for head, labels in zip(self.heads, cells.flatten(2).unbind(dim=1), strict=True)
        ]
        return torch.stack(losses).sum(dim=0)


def states_halfway(flow: StarFlow, u: Tensor, text: Tensor, frame: int) -> Tensor:
    """Hidden states `(B, H·W, C)` of the tokens of latent frame `frame`, after half the layers of the deep block.

    `u` `(B, T, H, W, D)` is the shallow blocks' output, `text` `(B, M, text width)`.
    """
    deep, index = flow.deep, flow.num_blocks - 1
    _, _, height, width, _ = u.shape
    tokens = flow.to_tokens(u[:, : frame + 1], index)
    rotation = flow.rotation(index, (frame + 2, height, width), text.shape[1])
    sos = deep.sos.expand(len(u), -1, -1).to(u.dtype)
    h = torch.cat([deep.embed_text(text), deep.embed(torch.cat([sos, tokens], dim=1))], dim=1)
    layers = deep.transformer.layers
    for number, layer in enumerate(layers[: len(layers) // 2]):
        h = layer(h, rotation[: h.shape[1]], CausalAttend(), number)
    raster = h[:, -height * width :].unflatten(1, (1, height * width))
    return flow.from_tokens(raster.flatten(1, 2), index, (1, height, width)).flatten(1, 3)
