"""Floating-point operations of training, counted on the meta device, and what a device can do in a second.

The operations are those of the matrix products and of attention in a forward and a backward pass of the flow and the
denoiser. Operations that activation checkpointing repeats do not count (model FLOPs, as in PaLM, arXiv 2204.02311), nor
do those of the text encoder. Causal attention counts as if it were not causal, as is usual.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow

# Dense bfloat16 operations per second by the name of a GPU, from the data sheets of the maker.
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations per second of a device; None if they are not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for known, flops in PEAK_FLOPS.items() if known in name), None)


class TrainingFlops:
    """The operations of a training step of a flow and its denoiser, by the shape of the batch.

    Legend: `B` batch, `T` latent frames, `D` latent channels, `H W` latent rows and columns, `M` text tokens.
    """

    def __init__(self, flow: StarFlow, denoiser: CausalDenoiser) -> None:
        """The models must be on the meta device."""
        self.flow, self.denoiser = flow, denoiser
        self.count = lru_cache(maxsize=None)(self._count)

    def __call__(self, latents: Tensor, text: Tensor) -> int:
        """Operations for latents `(B, T, D, H, W)` and text encodings `(B, M, text width)`."""
        return len(latents) * self.count((1, *latents.shape[1:]), (1, *text.shape[1:]))

    def _count(self, latents: tuple[int, ...], text: tuple[int, ...]) -> int:
        with FlopCounterMode(display=False) as counter:
            training_passes(self.flow, self.denoiser, latents, text)
        return counter.get_total_flops()


def training_passes(flow: StarFlow, denoiser: CausalDenoiser, latents: tuple[int, ...], text: tuple[int, ...]) -> None:
    """The forward and backward passes of a micro step, on the meta device and without the arithmetic of the losses."""
    x, encodings = torch.empty(latents, device="meta", requires_grad=True), torch.empty(text, device="meta")
    encoded = flow(x, encodings)
    (encoded.z.sum() + encoded.log_det.sum()).backward()
    denoiser(x.detach(), encodings).sum().backward()
    for module in (flow, denoiser):
        module.zero_grad()
