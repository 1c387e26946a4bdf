"""Decoding large frames with Wan's VAE tile by tile, with the same result as whole frames.

The tiling of diffusers decodes overlapping tiles separately and blends their edges. Its result differs from the whole
frame's: the attention of the middle block sees a tile instead of the frame. Here the decoder is cut in two parts. The
head has the attention and the low resolutions; it runs on whole frames and is cheap. The tail, the last levels, has
only convolutions. A tile is exact if it is decoded with a margin as wide as the reach of the convolutions.

Legend: B batch, t latent frames, f video frames, C channels, h w rows and columns at the start of the tail.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from itertools import product
from math import ceil
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

TAIL_BLOCKS = 2  # the last levels, which take nearly all of the memory of decoding
CACHED_FRAMES = 2  # previous frames that a causal convolution needs

Features = list[Tensor | str | None]


class TiledWanDecoder:
    """The decoder of one video. Its last levels run tile by tile.

    Tiles are of `vae.tile_sample_min_height` and `vae.tile_sample_min_width` pixels.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.decoder = vae.decoder
        num_blocks = len(self.decoder.up_blocks)
        self.head = self.decoder.up_blocks[: max(num_blocks - TAIL_BLOCKS, 0)]
        self.tail = self.decoder.up_blocks[max(num_blocks - TAIL_BLOCKS, 0) :]
        self.scale = 2 ** sum(_upsamples(block) for block in self.tail)
        self.margin = reach(self.tail)
        pixels = self.scale * (vae.config.patch_size or 1)
        self.tile = (max(1, vae.tile_sample_min_height // pixels), max(1, vae.tile_sample_min_width // pixels))
        self.num_features: int = vae._cached_conv_counts["decoder"]
        self.head_features: Features = [None] * self.num_features
        self.tile_features: dict[tuple[int, int], Features] = {}

    def copy(self) -> "TiledWanDecoder":
        """A decoder of the same video, which can go on in another way."""
        other = copy(self)
        other.head_features = list(self.head_features)
        other.tile_features = {corner: list(features) for corner, features in self.tile_features.items()}
        return other

    def __call__(self, hidden: Tensor, *, first_chunk: bool) -> Tensor:
        """`vae.decoder` of the next frames (B, D, t, H, W): (B, C, f, height, width), still in patches."""
        index = [0]
        x = _causal_conv(self.decoder.conv_in, hidden, self.head_features, index)
        x = self.decoder.mid_block(x, feat_cache=self.head_features, feat_idx=index)
        for block in self.head:
            x = block(x, feat_cache=self.head_features, feat_idx=index, first_chunk=first_chunk)
        rows: dict[int, list[Tensor]] = {}
        for top, left in self._corners(x):
            rows.setdefault(top, []).append(self._tile(x, top, left, index[0], first_chunk=first_chunk))
        return torch.cat([torch.cat(row, dim=-1) for row in rows.values()], dim=-2)

    def _corners(self, x: Tensor) -> Iterator[tuple[int, int]]:
        return product(range(0, x.shape[-2], self.tile[0]), range(0, x.shape[-1], self.tile[1]))

    def _tile(self, x: Tensor, top: int, left: int, num_done: int, *, first_chunk: bool) -> Tensor:
        """The tail on one tile of (B, C, t, h, w), without its margin. The first `num_done` features are the head's."""
        features = self.tile_features.setdefault((top, left), [None] * self.num_features)
        index = [num_done]
        with_margin, inside = [], []
        for start, tile, size in zip((top, left), self.tile, x.shape[-2:], strict=True):
            first, last = max(0, start - self.margin), min(size, start + tile + self.margin)
            with_margin.append(slice(first, last))
            inside.append(slice((start - first) * self.scale, (min(size, start + tile) - first) * self.scale))
        x = x[..., with_margin[0], with_margin[1]]
        for block in self.tail:
            x = block(x, feat_cache=features, feat_idx=index, first_chunk=first_chunk)
        x = self.decoder.nonlinearity(self.decoder.norm_out(x))
        x = _causal_conv(self.decoder.conv_out, x, features, index)
        return x[..., inside[0], inside[1]]


def reach(blocks: Iterable[Any]) -> int:
    """The reach of the convolutions of up-sampling blocks and of the decoder's last layer, in pixels of their input.

    A 3×3 convolution reaches one pixel at its own resolution.
    """
    distance, scale = 0.0, 1
    for block in blocks:
        distance += len(block.resnets) * 2 / scale
        if _upsamples(block):
            scale *= 2
            distance += 1 / scale
    return ceil(distance + 1 / scale)


def _upsamples(block: nn.Module) -> bool:
    """Whether a block of the decoder, `WanUpBlock` or `WanResidualUpBlock`, doubles rows and columns."""
    return getattr(block, "upsamplers", None) is not None or getattr(block, "upsampler", None) is not None


def _causal_conv(conv: nn.Module, x: Tensor, features: Features, index: list[int]) -> Tensor:
    """A causal convolution of the frames (B, C, t, h, w) after those in the cache, as in the blocks of diffusers."""
    before = features[index[0]]
    last = x[:, :, -CACHED_FRAMES:].clone()
    if last.shape[2] < CACHED_FRAMES and isinstance(before, Tensor):
        last = torch.cat([before[:, :, -1:], last], dim=2)
    y = conv(x, before)
    features[index[0]] = last
    index[0] += 1
    return y
