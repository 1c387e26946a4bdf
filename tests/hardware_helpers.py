"""Pipelines that can have narrow weights, and a check that their flows can still be inverted."""

import torch

from invertible_maps import randomize
from plans import sample
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.hardware.quantization import INT4_GROUP
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sliding import SlidingWindow
from tiny_pipeline import LATENT_CHANNELS, TEXT_WIDTH, tiny_pipeline


def wide_pipeline() -> StarFlowPipeline:
    """Wide enough for int4, whose groups are of 128 weights."""
    pipeline = tiny_pipeline()
    flow = StarFlow(LATENT_CHANNELS, [1, 1], 1, INT4_GROUP, INT4_GROUP, 32, TEXT_WIDTH, position_length=2)
    denoiser = CausalDenoiser(LATENT_CHANNELS, INT4_GROUP, 1, 32, TEXT_WIDTH, position_length=2)
    pipeline.register_modules(flow=randomize(flow, dtype=flow.dtype), denoiser=denoiser)
    return pipeline


def inverted(flow: StarFlow, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample, and how far the noise that the flow encodes it to is from the one that it was made from."""
    noise, text = torch.randn(2, 3, LATENT_CHANNELS, 2, 2), torch.randn(2, 5, TEXT_WIDTH)
    x, report = sample(flow, noise.to(flow.device), text.to(flow.device), solver=SlidingWindow(8, tolerance))
    assert report.deep.max_residual <= tolerance
    with torch.no_grad():
        return x, (flow.encode(x, text.to(flow.device)).z.cpu() - noise).abs().max()
