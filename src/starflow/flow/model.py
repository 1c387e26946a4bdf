"""StarFlow: the invertible model. Read this first.

`K` autoregressive affine blocks map the latents `x` of a video to noise `z ~ N(0, I)`. The shallow blocks come first:
they work within each frame, without text. The deep block comes last: it is causal over the whole video in raster order,
and conditioned on text (global-local):

    x --shallow blocks (within a frame)--> u --deep block (over the video, with text)--> z
    log p(x) = log N(z; 0, I) + sum over blocks and elements of log_det,    log_det = -log sigma

**Encoding** is data → noise. It runs blocks `0 … K-1`, each in one parallel pass. Sampling is noise → data, in the
opposite order (see `starflow.sampling`). `log_det` is always the logarithm of the diagonal of the Jacobian of
data → noise.

Source: STARFlow-V, arXiv 2511.20462; STARFlow, arXiv 2506.06276; TarFlow, arXiv 2412.06329.

Legend: `B` batch, `T` latent frames, `H W` latent rows and columns, `N = T·H·W` tokens, `D` latent channels,
`M` text tokens, `E` action features.
Inside the flow, latents have their channels last: `(B, T, H, W, D)`. An image is a video of one frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from starflow.flow.actions import ActionSpace
from starflow.flow.block import AffineBlock, ConditionalGaussians, action_embedding
from starflow.flow.rope import check_head_dim, grid_positions, rotations, text_positions
from starflow.flow.transformer import at_least_float32


class Encoded(NamedTuple):
    """`z`, and the elementwise log-determinant summed over the blocks; both `(B, T, D, H, W)`."""

    z: Tensor
    log_det: Tensor


class BlockOutput(NamedTuple):
    """A block's output and log-determinant, `(B, T, H, W, D)`, both in raster order."""

    hidden: Tensor
    log_det: Tensor


class StarFlow(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The normalizing flow: `K - 1` shallow blocks and a deep block."""

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        shallow_layers: Sequence[int],
        deep_layers: int,
        shallow_width: int,
        deep_width: int,
        head_dim: int = 64,
        text_width: int = 2048,
        position_length: float = 32,
        soft_clip: float = 4.0,
        action_space: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            latent_channels: `D`.
            shallow_layers: layers of each shallow block, from data to noise.
            deep_layers: layers of the deep block.
            shallow_width: width of the shallow blocks' transformers, a multiple of `head_dim`.
            deep_width: the same of the deep block.
            head_dim: width of an attention head.
            text_width: width of the text encodings.
            position_length: `L`, the side in tokens of the square grid of training. Rows and columns are scaled to it.
            soft_clip: `c` of `c·tanh(·/c)`, which limits the predictions of a block; 0 for no limit.
            action_space: `ActionSpace.to_config` of the actions that the deep block takes; None for none.

        Raises:
            ValueError: a width is not a multiple of `head_dim`, or the rotary positions cannot split `head_dim`.
        """
        super().__init__()
        check_head_dim(head_dim)
        shallow = [
            AffineBlock(latent_channels, shallow_width, layers, head_dim, soft_clip=soft_clip)
            for layers in shallow_layers
        ]
        num_features = None if action_space is None else ActionSpace.from_config(action_space).num_features
        deep = AffineBlock(latent_channels, deep_width, deep_layers, head_dim, text_width, soft_clip, num_features)
        self.blocks = nn.ModuleList([*shallow, deep])
        self.head_dim = head_dim
        self.position_length = position_length
        self.cache_dtype: torch.dtype | None = None  # of the deep block's key/value cache; None: that of the weights

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def deep(self) -> AffineBlock:
        """The block that attends across frames and to the text."""
        return self.blocks[-1]  # type: ignore[return-value]

    @property
    def shallow(self) -> list[AffineBlock]:
        """The blocks within a frame, from data to noise."""
        return list(self.blocks[:-1])  # type: ignore[arg-type]

    @property
    def action_space(self) -> ActionSpace | None:
        """The actions that the model takes; None if it takes none."""
        space = self.config["action_space"]
        return None if space is None else ActionSpace.from_config(space)

    def add_actions(self, space: ActionSpace) -> None:
        """Let the model take actions. Their embedding is new: it changes nothing until it is trained."""
        self.register_to_config(action_space=space.to_config())
        weight = self.deep.proj_in.weight
        self.deep.proj_action = action_embedding(space.num_features, weight.shape[0]).to(weight)

    # --- token order -------------------------------------------------------------------------------------------------

    def reverses(self, index: int) -> bool:
        """Whether block `index` orders the tokens of a frame backwards. Frames are always in order."""
        return (index + 1) % 2 == 1 if index < self.num_blocks - 1 else self.num_blocks % 2 == 1

    def to_tokens(self, x: Tensor, index: int) -> Tensor:
        """`(B, T, H, W, D)` → block `index`'s own tokens: shallow `(B·T, H·W, D)`, deep `(B, N, D)`."""
        tokens = x.flatten(2, 3)
        if self.reverses(index):
            tokens = tokens.flip(2)
        return tokens.flatten(0, 1) if index < self.num_blocks - 1 else tokens.flatten(1, 2)

    def from_tokens(self, tokens: Tensor, index: int, grid: tuple[int, int, int]) -> Tensor:
        """The inverse of `to_tokens`, for `grid = (T, H, W)`."""
        num_frames, height, width = grid
        tokens = tokens.reshape(-1, num_frames, height * width, tokens.shape[-1])
        if self.reverses(index):
            tokens = tokens.flip(2)
        return tokens.unflatten(2, (height, width))

    def rotation(self, index: int, grid: tuple[int, int, int], num_text_tokens: int = 0) -> Tensor:
        """Rotary positions `(M + n, d/2)` of block `index`'s text and tokens.

        The positions are in raster order even for blocks that order the tokens backwards, as in the released models.
        """
        num_frames, height, width = grid
        shallow = index < self.num_blocks - 1
        tokens = grid_positions(1 if shallow else num_frames, height, width, self.position_length).flatten(0, 2)
        text = text_positions(num_text_tokens, self.position_length)
        weight = self.deep.proj_in.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return rotations(torch.cat([text, tokens]), self.head_dim, dtype, weight.device)

    # --- data → noise ------------------------------------------------------------------------------------------------

    def run_block(
        self, index: int, x: Tensor, text: Tensor | None = None, actions: Tensor | None = None
    ) -> BlockOutput:
        """Run block `index` on `x` `(B, T, H, W, D)`, data → noise. Only the deep block takes `text` and `actions`."""
        grid = (x.shape[1], x.shape[2], x.shape[3])
        rotation = self.rotation(index, grid, 0 if text is None else text.shape[1])
        z, log_det = self.blocks[index](self.to_tokens(x, index), rotation, text, actions)
        return BlockOutput(self.from_tokens(z, index, grid), self.from_tokens(log_det, index, grid))

    def run_blocks(self, x: Tensor, text: Tensor, actions: Tensor | None = None) -> Iterator[BlockOutput]:
        """Run the blocks one by one on `x` `(B, T, H, W, D)`, from data to noise."""
        for index, block in enumerate(self.blocks):
            output = self.run_block(index, x, text, actions) if block is self.deep else self.run_block(index, x)
            yield output
            x = output.hidden

    def encode(self, x: Tensor, text: Tensor, actions: Tensor | None = None) -> Encoded:
        """Data → noise: latents `(B, T, D, H, W)` and text encodings `(B, M, text width)` → `z` and `log_det`.

        `actions` `(B, T, E)` are the features of each latent frame's action (`ActionSpace.features`).
        Raises ValueError if the latents' channels are not the model's, or the model takes no such actions.
        """
        if x.ndim != 5 or x.shape[2] != self.config["latent_channels"]:
            raise ValueError(f"expected latents (B, T, {self.config['latent_channels']}, H, W), not {tuple(x.shape)}")
        if actions is not None:
            self._check_actions(actions, x)
        hidden = x.permute(0, 1, 3, 4, 2)
        total = torch.zeros_like(at_least_float32(hidden))
        for output in self.run_blocks(hidden, text, actions):
            hidden, total = output.hidden, total + output.log_det
        return Encoded(hidden.permute(0, 1, 4, 2, 3), total.permute(0, 1, 4, 2, 3))

    def forward(self, x: Tensor, text: Tensor, actions: Tensor | None = None) -> Encoded:
        """`encode`."""
        return self.encode(x, text, actions)

    def _check_actions(self, actions: Tensor, x: Tensor) -> None:
        space = self.action_space
        expected = None if space is None else (*x.shape[:2], space.num_features)
        if actions.shape != expected:
            wanted = "no actions" if expected is None else f"action features {expected}"
            raise ValueError(f"expected {wanted}, not {tuple(actions.shape)}")

    def encode_shallow(self, x: Tensor) -> Tensor:
        """Latents `(B, T, D, H, W)` → `u` `(B, T, H, W, D)`, the input of the deep block. Frames are independent."""
        x = x.permute(0, 1, 3, 4, 2)
        for index in range(self.num_blocks - 1):
            x = self.run_block(index, x).hidden
        return x

    # --- noise → data ------------------------------------------------------------------------------------------------

    def conditional(
        self,
        index: int,
        batch_size: int,
        grid: tuple[int, int, int],
        text: Tensor | None = None,
        null_text: Tensor | None = None,
        guidance_weight: float = 0.0,
    ) -> ConditionalGaussians:
        """The conditional Gaussians of block `index` over a `(T, H, W)` grid, with only the text in the cache.

        For a shallow block, `batch_size` is the number of frames, and there is no text.
        """
        rotation = self.rotation(index, grid, 0 if text is None else text.shape[1])
        cache_dtype = self.cache_dtype if index == self.num_blocks - 1 else None
        block: AffineBlock = self.blocks[index]  # type: ignore[assignment]
        return ConditionalGaussians(block, batch_size, rotation, text, null_text, guidance_weight, cache_dtype)
