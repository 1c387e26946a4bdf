"""Floating-point operations of training, counted on the meta device, and what a device can do in a second.

The operations are those of the matrix products and of attention in a forward and a backward pass of the flow and the
denoiser. Operations that activation checkpointing repeats do not count (model FLOPs, as in PaLM, arXiv 2204.02311), nor
do those of the text encoder. Causal attention counts as if it were not causal, as is usual.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow


class GPU(NamedTuple):
    """Dense bfloat16 operations per second and bytes of memory, from the data sheet of the maker."""

    flops: float
    memory: float


GPUS = {
    "a100": GPU(312e12, 80e9),
    "h100": GPU(989e12, 80e9),
    "h200": GPU(989e12, 141e9),
    "b200": GPU(2250e12, 180e9),
}


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations per second of a device; None if they are not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    return next((gpu.flops for known, gpu in GPUS.items() if known in name), None)


class TrainingFlops:
    """The operations of a training step of a flow and its denoiser, by the shape of the batch.

    Legend: `B` batch, `T` latent frames, `D` latent channels, `H W` latent rows and columns, `M` text tokens.
    """

    def __init__(self, flow: StarFlow, denoiser: CausalDenoiser | None) -> None:
        """The models must be on the meta device. Parameters that require no gradient count as frozen."""
        self.flow, self.denoiser = flow, denoiser
        self.count = lru_cache(maxsize=None)(self._count)

    def __call__(self, latents: Tensor, text: Tensor) -> int:
        """Operations for latents `(B, T, D, H, W)` and text encodings `(B, M, text width)`."""
        return len(latents) * self.count((1, *latents.shape[1:]), (1, *text.shape[1:]))

    def _count(self, latents: tuple[int, ...], text: tuple[int, ...]) -> int:
        x, encodings = torch.empty(latents, device="meta", requires_grad=True), torch.empty(text, device="meta")
        with FlopCounterMode(display=False) as counter:
            encoded = self.flow(x, encodings)
            (encoded.z.sum() + encoded.log_det.sum()).backward()
            if self.denoiser is not None:
                self.denoiser(x, encodings).sum().backward()
        return counter.get_total_flops()
