"""Placing a pipeline on a device, with or without offloading its weights to the CPU."""

from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import apply_group_offloading

from starflow.errors import UsageError
from starflow.flow.narrow import narrow
from starflow.flow.transformer import Transformer

if TYPE_CHECKING:
    from starflow.pipeline.pipeline import StarFlowPipeline

OFFLOADS = ("none", "model", "group")


def place(pipeline: "StarFlowPipeline", device: str | torch.device, offload: str = "none") -> "StarFlowPipeline":
    """Place a pipeline on a device, for inference. On a CPU, `starflow.flow.narrow` halves its matrices.

    Args:
        pipeline: on the CPU.
        device: the device that computes.
        offload: the weights that are on the device. `none`: all. `model`: those of the part that computes. `group`:
            those of the layers that compute, and of the next; this needs the least memory and the most time.

    Returns:
        The pipeline.

    Raises:
        UsageError: `offload` is unknown, or is `group` for a model without a denoiser; or the device is missing.
    """
    if offload not in OFFLOADS:
        raise UsageError(f"unknown offloading {offload!r}: choose {', '.join(OFFLOADS)}")
    if offload == "group" and pipeline.denoiser is None:
        raise UsageError(
            "this model has no denoiser: it denoises with the gradient of the flow, which needs all layers at once; "
            "choose --offload model"
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
    if device.type == "cpu" and offload == "none":
        for part in (pipeline.flow, pipeline.denoiser):
            if part is not None:
                narrow(part)
    return pipeline


def best_device() -> str:
    """The kind of device that computes fastest here: `cuda`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def use_device(name: str) -> torch.device:
    """The device of this name. If it is a GPU with a number, libraries use it for `cuda` from now on.

    Raises UsageError if there is no such device.
    """
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None and torch.cuda.is_available():
            torch.cuda.set_device(device)
    except RuntimeError as error:
        raise UsageError(f"cannot use the device {name}: {str(error).splitlines()[0]}") from error
    return device


def _offload_groups(pipeline: "StarFlowPipeline", device: torch.device) -> None:
    """Offload the flow's transformers by layer and the other parts by weight; what is left stays on the device.

    The denoiser's stream calls the parts of its layers, not the layers, so only hooks on those parts run.
    """
    options: dict[str, Any] = {"offload_device": torch.device("cpu"), "use_stream": device.type == "cuda"}
    assert pipeline.denoiser is not None  # `place` has checked it
    for part in (pipeline.flow, pipeline.denoiser):
        for name, parameter in part.named_parameters():
            if "transformer." not in name:
                parameter.data = parameter.data.to(device)
    for module in pipeline.flow.modules():
        if isinstance(module, Transformer):
            apply_group_offloading(module, device, offload_type="block_level", num_blocks_per_group=1, **options)
    for leaf_wise in (pipeline.text_encoder, pipeline.vae, pipeline.denoiser.transformer):
        apply_group_offloading(leaf_wise, device, offload_type="leaf_level", **options)
