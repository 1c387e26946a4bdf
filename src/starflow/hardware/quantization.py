"""Quantized weights for the flow and the denoiser, by torchao through diffusers."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from starflow.errors import StarflowError, UsageError
from starflow.flow.transformer import Layer

if TYPE_CHECKING:
    from diffusers import PipelineQuantizationConfig

QUANTIZATIONS = ("int8", "fp8", "int4")
INT4_GROUP = 128  # weights that share a scale
NOT_QUANTIZED = ["proj_in", "proj_out", "proj_text"]  # small, and the flow's exactness depends on them


def quantization_config(quantize: str, device: str | torch.device = "cpu") -> "PipelineQuantizationConfig":
    """A configuration for `from_pretrained(quantization_config=…)` that quantizes the flow and the denoiser.

    Args:
        quantize: `int8`, `fp8` or `int4`. Only weights are quantized, not activations or the key/value cache.
        device: where the weights will be used. `int4` is packed for this device, and must be loaded to it
            (`from_pretrained(device_map=…)`).

    Raises:
        UsageError: the quantization is unknown.
        StarflowError: torchao is not installed.
    """
    if quantize not in QUANTIZATIONS:
        raise UsageError(f"unknown quantization {quantize!r}: choose {', '.join(QUANTIZATIONS)}")
    from diffusers import PipelineQuantizationConfig, TorchAoConfig

    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig
    except ImportError:
        raise StarflowError(
            "quantization needs torchao: in the repository, pip install -c constraints.txt -e '.[quantize]'"
        ) from None
    weights = {"int8": Int8WeightOnlyConfig(), "fp8": Float8WeightOnlyConfig()}
    if torch.device(device).type == "cpu":
        weights["int4"] = PrototypeInt4WeightOnlyConfig(group_size=INT4_GROUP)
    else:  # the default packing needs another library
        weights["int4"] = Int4WeightOnlyConfig(group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d")
    parts = {name: TorchAoConfig(weights[quantize], list(NOT_QUANTIZED)) for name in ("flow", "denoiser")}
    return PipelineQuantizationConfig(quant_mapping=parts)


def check_quantizable(flow: nn.Module, denoiser: nn.Module | None, quantize: str | None) -> None:
    """Raise UsageError if `int4` does not work for a model; other quantizations work for all models.

    torchao silently skips a matrix whose width is not a multiple of `INT4_GROUP`.
    """
    if quantize != "int4":
        return
    if denoiser is None:
        raise UsageError(
            "this model has no denoiser: it denoises with the gradient of the flow, which cannot pass through int4; "
            "choose --quantize int8"
        )
    layers = [module for part in (flow, denoiser) for module in part.modules() if isinstance(module, Layer)]
    matrices = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    if any(matrix.in_features % INT4_GROUP for matrix in matrices):
        raise UsageError(f"int4 needs layers with widths that are multiples of {INT4_GROUP}: choose --quantize int8")
