"""Grounding: what the deep block is to have understood halfway, of the caption and of what it has seen of the frame.

A clip's likelihood hardly depends on which object does what: where two objects move and the caption says how, to know
whose motion is whose is worth `log 2` nats of a clip's thousands. So a linear head, for training alone, tells of every
token of the first frame, from the state after half the deep block's layers, the color, shape and motion of the object
that is seen there. Its cross-entropy trains those layers and the text encoder beside the likelihood.

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
            raise UsageError("the auxiliary loss toyworld-grounding needs the clips of toyworld: set data.source")
        self.flow, self.source = flow, source
        self.module = GroundingHead(flow.config["deep_width"])
        self._ground = lru_cache(maxsize=None)(self._ground_scene)

    def __call__(self, batch: Batch, noisy: Tensor, text: Tensor) -> Tensor:
        """The cross-entropy `(B)` of what is seen where in the first frame that is made."""
        with torch.no_grad():
            u = self.flow.encode_shallow(noisy[:, : batch.num_given + 1])
        states = states_halfway(self.flow, u, text, batch.num_given)
        return self.module(states, self.cells(batch).to(noisy.device))

    def cells(self, batch: Batch) -> Tensor:
        """What is to be told of each clip, int8 `(B, 3, H, W)`: what its caption says of the first frame made."""
        grid = (batch.latents.shape[3], batch.latents.shape[4])
        is_edit = batch.task == "video_to_video"
        cells = torch.stack([self._ground(index, is_edit, *grid) for index in batch.indices])
        if batch.task == "extend":  # an excerpt, which begins with another frame than the scene's first
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
        """Cross-entropy `(B)`, in nats, of `states` `(B, H·W, C)` with what is to be told, `cells` `(B, 3, H, W)`."""
        states = F.layer_norm(states, states.shape[-1:])
        losses = [
            F.cross_entropy(head(states).float().mT, labels.long(), ignore_index=NOTHING, reduction="none").sum(dim=1)
            for head, labels in zip(self.heads, cells.flatten(2).unbind(dim=1), strict=True)
        ]
        return torch.stack(losses).sum(dim=0)


def states_halfway(flow: StarFlow, u: Tensor, text: Tensor, frame: int) -> Tensor:
    """What the deep block's first half makes of latent frame `frame`: `(B, H·W, C)`, each token's once it was read.

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
