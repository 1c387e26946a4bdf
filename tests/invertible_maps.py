"""Tiny models with random weights, and a table of all invertible maps for the shared property tests.

Tensors are `(B, T, H, W, D)`, raster order and channels last, as inside the flow.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from adapters import add_random_adapter
from plans import sample
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.sampling.solvers import Solver, solve

M = TypeVar("M", bound=nn.Module)
CHANNELS, TEXT_WIDTH, TEXT_TOKENS, HEAD_DIM = 2, 6, 3, 20
VIDEO, IMAGE = (3, 2, 3), (1, 3, 4)


def randomize(module: M, seed: int = 0, dtype: torch.dtype = torch.float64) -> M:
    """Set every parameter to random values, so that each one matters, scaled to keep activations of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.data = (torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        parameter.requires_grad_(False)
    return module


def tiny_flow(num_blocks: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> StarFlow:
    flow = StarFlow(
        latent_channels=CHANNELS,
        shallow_layers=[1] * (num_blocks - 1),
        deep_layers=2,
        shallow_width=HEAD_DIM,
        deep_width=2 * HEAD_DIM,
        head_dim=HEAD_DIM,
        text_width=TEXT_WIDTH,
        position_length=4,
    )
    return randomize(flow, seed, dtype)


def tiny_denoiser(
    num_layers: int = 2,
    *,
    temporal_causal: int = 2,
    window: int = 10,
    text_width: int | None = TEXT_WIDTH,
    dtype: torch.dtype = torch.float64,
) -> CausalDenoiser:
    denoiser = CausalDenoiser(
        latent_channels=CHANNELS,
        width=2 * HEAD_DIM,
        num_layers=num_layers,
        head_dim=HEAD_DIM,
        text_width=text_width,
        position_length=4,
        temporal_causal=temporal_causal,
        window=window,
    )
    return randomize(denoiser, dtype=dtype)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_text(batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return randn(batch, TEXT_TOKENS, TEXT_WIDTH, seed=seed, dtype=dtype)


@dataclass(frozen=True)
class InvertibleMap:
    """One block of a flow of `num_blocks`, or (`block` None) the whole flow, on a `(T, H, W)` grid.

    `backwards` is the expected order within a frame, stated here independently of the code. `adapted`: with LoRA.
    """

    name: str
    num_blocks: int
    block: int | None
    grid: tuple[int, int, int]
    backwards: bool = False
    adapted: bool = False

    @cached_property
    def flow(self) -> StarFlow:
        flow = tiny_flow(self.num_blocks)
        return add_random_adapter(flow) if self.adapted else flow

    @property
    def is_deep(self) -> bool:
        return self.block == self.num_blocks - 1

    def random(self, batch: int, seed: int) -> Tensor:
        return randn(batch, *self.grid, CHANNELS, seed=seed)

    def encode(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        flow = self.flow
        if self.block is None:
            encoded = flow.encode(x.permute(0, 1, 4, 2, 3), text)
            return encoded.z.permute(0, 1, 3, 4, 2), encoded.log_det.permute(0, 1, 3, 4, 2)
        rotation = flow.rotation(self.block, self.grid, TEXT_TOKENS if self.is_deep else 0)
        tokens = flow.to_tokens(x, self.block)
        z, log_det = flow.blocks[self.block](tokens, rotation, text if self.is_deep else None)
        return flow.from_tokens(z, self.block, self.grid), flow.from_tokens(log_det, self.block, self.grid)

    def decode(self, z: Tensor, text: Tensor, solver: Solver) -> Tensor:
        flow = self.flow
        if self.block is None:
            x, _ = sample(flow, z.permute(0, 1, 4, 2, 3), text, solver=solver)
            return x.permute(0, 1, 3, 4, 2)
        tokens = flow.to_tokens(z, self.block)
        grid = self.grid if self.is_deep else (1, *self.grid[1:])
        gaussians = flow.conditional(self.block, tokens.shape[0], grid, text if self.is_deep else None)
        v = tokens.clone()
        solve(solver, gaussians, tokens, v, 0, v.shape[1])
        return flow.from_tokens(v, self.block, self.grid)

    def sees(self) -> Tensor:
        """Whether output i may depend on input j: `(N, N)`, `N = T·H·W`."""
        num_frames, height, width = self.grid
        per_frame = height * width
        frame = torch.arange(num_frames).repeat_interleave(per_frame)
        order = torch.arange(per_frame).repeat(num_frames)
        if self.backwards:
            order = per_frame - 1 - order
        same_frame = frame[:, None] == frame
        later_frame = frame[:, None] > frame
        if self.block is None:
            return same_frame | later_frame
        within = same_frame & (order[:, None] >= order)
        return within | later_frame if self.is_deep else within


MAPS = [
    InvertibleMap("shallow backwards, video", 3, 0, VIDEO, backwards=True),
    InvertibleMap("shallow forwards, video", 3, 1, VIDEO),
    InvertibleMap("shallow backwards, image", 4, 2, IMAGE, backwards=True),
    InvertibleMap("deep of 3, video", 3, 2, VIDEO, backwards=True),
    InvertibleMap("deep of 4, video", 4, 3, VIDEO),
    InvertibleMap("deep of 3, image", 3, 2, IMAGE, backwards=True),
    InvertibleMap("whole of 3, video", 3, None, VIDEO),
    InvertibleMap("whole of 4, video", 4, None, VIDEO),
    InvertibleMap("whole of 3, image", 3, None, IMAGE),
    InvertibleMap("shallow backwards, with LoRA", 3, 0, VIDEO, backwards=True, adapted=True),
    InvertibleMap("deep of 4, with LoRA", 4, 3, VIDEO, adapted=True),
    InvertibleMap("whole of 3, with LoRA", 3, None, VIDEO, adapted=True),
]
