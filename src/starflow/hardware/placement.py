"""Where the weights of a pipeline are while it works: all on the device, or in turns with the CPU."""

from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from starflow.errors import UsageError
from starflow.flow.transformer import Transformer

if TYPE_CHECKING:
    from starflow.pipeline.pipeline import StarFlowPipeline

OFFLOADS = ("none", "model", "group")


def place(pipeline: "StarFlowPipeline", device: str | torch.device, offload: str = "none") -> "StarFlowPipeline":
    """Put a pipeline on a device: all of it, or in turns with the CPU.

    Args:
        pipeline: on the CPU.
        device: where it is to compute.
        offload: `none`: all weights are on the device. `model`: those of the part that is at work. `group`: those of
            the layers that are at work and of the next, which takes least memory and most time.

    Raises UsageError for another `offload`, for `group` without a denoiser, or for a device that is not there.
    """
    if offload not in OFFLOADS:
        raise UsageError(f"unknown offloading {offload!r}: choose {', '.join(OFFLOADS)}")
    if offload == "group" and pipeline.denoiser is None:
        raise UsageError(
            "this model has no denoiser, and the gradient that denoises in its place needs all layers of the flow at "
            "once: choose --offload model"
        )
    device = torch.device(device)
    try:
        if offload == "none":
            pipeline.to(device)
        elif offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            _offload_groups(pipeline, device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"cannot use the device {device}: {reason}") from error
    return pipeline


def _offload_groups(pipeline: "StarFlowPipeline", device: torch.device) -> None:
    """The transformers layer by layer, their small surroundings staying; other parts by matrix and convolution."""
    options: dict[str, Any] = {"offload_device": torch.device("cpu"), "use_stream": device.type == "cuda"}
    transformers: list[nn.Module] = [part for part in (pipeline.flow, pipeline.denoiser) if part is not None]
    for part in transformers:
        for name, parameter in part.named_parameters():
            if "transformer." not in name:
                parameter.data = parameter.data.to(device)
        for module in part.modules():
            if isinstance(module, Transformer):
                apply_group_offloading(module, device, offload_type="block_level", num_blocks_per_group=1, **options)
    for leaf_wise in (pipeline.text_encoder, pipeline.vae):
        apply_group_offloading(leaf_wise, device, offload_type="leaf_level", **options)
