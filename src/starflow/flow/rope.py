"""3-D rotary positions (pure functions).

The queries and keys of a token at `(row, column, time)` are rotated. Channels `2j` and `2j + 1` are the real and the
imaginary part of a complex number, which is rotated by the angle `[row·f, column·f, time·g]_j`. There are `s/2` spatial
frequencies `f_i = 10000^(-2i/s)` with `s = head_dim/2 - 8`, used for rows and for columns, and 8 temporal frequencies
`g_i = 10000^(-i/8)`.

Rows and columns are divided by `sqrt(H·W)` and multiplied by the training length `L`, so that a model works at several
resolutions. Time is the index of the latent frame (STARFlow-V, arXiv 2511.20462; STARFlow, arXiv 2506.06276).

Legend: `B` batch, `T` latent frames, `H W` latent rows and columns, `M` text tokens, `n` tokens, `d` head width.
"""

import torch
from torch import Tensor

TEMPORAL_FREQUENCIES = 8
BASE = 10000.0


def check_head_dim(head_dim: int) -> None:
    """Raise ValueError unless `head_dim` can be split into the frequencies of the three axes."""
    spatial = head_dim // 2 - TEMPORAL_FREQUENCIES
    if head_dim % 2 or spatial <= 0 or spatial % 2:
        raise ValueError(f"head_dim must be a multiple of 4 above {2 * TEMPORAL_FREQUENCIES}, not {head_dim}")


def grid_positions(num_frames: int, height: int, width: int, length: float) -> Tensor:
    """`(T, H, W, 3)` float64 positions `(row, column, time)` of a grid of latents, in raster order.

    `length` is `L`, the side in tokens of the square grid of training.
    """
    scale = length / (height * width) ** 0.5
    axes = (torch.arange(size, dtype=torch.float64) for size in (num_frames, height, width))
    time, rows, columns = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([rows * scale, columns * scale, time], dim=-1)


def text_positions(num_tokens: int, length: float) -> Tensor:
    """`(M, 3)` float64 positions of text: that of token `j` is `(0, 0, j / M · length)`."""
    positions = torch.zeros(num_tokens, 3, dtype=torch.float64)
    positions[:, 2] = torch.arange(num_tokens, dtype=torch.float64) / max(num_tokens, 1) * length
    return positions


def rotations(positions: Tensor, head_dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(n, 3)` positions on the CPU → `(n, d/2)` rotations `exp(i·angle)` on `device`.

    The angles are computed in float64, which some devices do not have, and rounded at the end. `dtype` is that of the
    real and imaginary parts: float32 or float64.
    """
    spatial_dim = head_dim // 2 - TEMPORAL_FREQUENCIES
    index = torch.arange(max(spatial_dim // 2, TEMPORAL_FREQUENCIES), dtype=torch.float64)
    spatial = BASE ** (-2 * index[: spatial_dim // 2] / spatial_dim)
    temporal = BASE ** (-index[:TEMPORAL_FREQUENCIES] / TEMPORAL_FREQUENCIES)
    rows, columns, time = positions.double().unsqueeze(-1).unbind(-2)
    angles = torch.cat([rows * spatial, columns * spatial, time * temporal], dim=-1)
    return torch.polar(torch.ones_like(angles), angles).to(device, dtype.to_complex())


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the interleaved channel pairs `(a, b)` of `x` to `(a cos - b sin, b cos + a sin)`.

    `x` is `(…, d)`; `rotation` broadcasts to `(…, d/2)`. The product is computed in float32 or wider.
    """
    pairs = torch.view_as_complex(x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
