"""Where the weights of a pipeline are while it works, and in what precision: offloading and quantization.

Both are diffusers' own. Its hooks move weights when a module is called; the flow, the denoiser's stream and the VAE are
used through other methods too, which say so themselves with `onload`.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from diffusers import PipelineQuantizationConfig, TorchAoConfig
from diffusers.hooks import apply_group_offloading
from torch import nn

from starflow.errors import StarflowError, UsageError
from starflow.flow.transformer import Layer, Transformer

if TYPE_CHECKING:
    from starflow.pipeline import StarFlowPipeline

Item = TypeVar("Item")

OFFLOADS = ("none", "model", "group")
QUANTIZATIONS = ("int8", "fp8", "int4")
INT4_GROUP = 128  # weights that share a scale
NOT_QUANTIZED = ["proj_in", "proj_out", "proj_text"]  # small, and what the flow's exactness hangs on


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
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
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
    for part in parts:
        part.execution_device = device  # type: ignore[assignment]
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


def onload(module: nn.Module) -> None:
    """Bring a part of an offloaded pipeline to its device, as calling it would; does nothing for any other module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)


def onloaded(module: nn.Module, items: Iterable[Item]) -> Iterator[Item]:
    """The items, the module that makes them being brought to its device for each."""
    iterator = iter(items)
    while True:
        onload(module)
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes: where `place` put its pipeline, or else where its weights are."""
    device = getattr(module, "execution_device", None)
    return next(module.parameters()).device if device is None else device


def quantization_config(quantize: str, device: str | torch.device = "cpu") -> PipelineQuantizationConfig:
    """What `from_pretrained(quantization_config=…)` takes, to load flow and denoiser with narrow weights.

    Args:
        quantize: `int8`, `fp8` or `int4`, with torchao. Activations and the key/value cache stay as they are.
        device: where the weights will be used, which decides how `int4` packs them; those of `int4` must be loaded
            there, `from_pretrained(device_map=…)`.

    Raises UsageError for another name, StarflowError if torchao is not installed.
    """
    if quantize not in QUANTIZATIONS:
        raise UsageError(f"unknown quantization {quantize!r}: choose {', '.join(QUANTIZATIONS)}")
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig
    except ImportError:
        raise StarflowError("quantization needs torchao: pip install 'starflow[quantize]'") from None
    weights = {"int8": Int8WeightOnlyConfig(), "fp8": Float8WeightOnlyConfig()}
    if torch.device(device).type == "cpu":
        weights["int4"] = PrototypeInt4WeightOnlyConfig(group_size=INT4_GROUP)
    else:  # torchao's default packing needs a library that it does not bring
        weights["int4"] = Int4WeightOnlyConfig(group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d")
    parts = {name: TorchAoConfig(weights[quantize], list(NOT_QUANTIZED)) for name in ("flow", "denoiser")}
    return PipelineQuantizationConfig(quant_mapping=parts)


def check_quantizable(flow: nn.Module, denoiser: nn.Module | None, quantize: str | None) -> None:
    """Raise UsageError if `int4` is asked of a model that cannot have it; the others fit every model.

    torchao leaves a matrix whose rows are no multiple of `INT4_GROUP` as it is, and does not say so.
    """
    if quantize != "int4":
        return
    if denoiser is None:
        raise UsageError(
            "this model has no denoiser, and the gradient that denoises in its place cannot pass through int4: choose "
            "--quantize int8"
        )
    layers = [module for part in (flow, denoiser) for module in part.modules() if isinstance(module, Layer)]
    matrices = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    if any(matrix.in_features % INT4_GROUP for matrix in matrices):
        raise UsageError(f"int4 needs layers whose widths are multiples of {INT4_GROUP}: choose --quantize int8")
