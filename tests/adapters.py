"""Random LoRA adapters for tests."""

import copy
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

from starflow.flow.model import StarFlow
from starflow.flow.transformer import MATRICES
from starflow.pipeline.pipeline import StarFlowPipeline

RANK, ALPHA = 2, 3


def add_random_adapter(flow: StarFlow, seed: int = 1, **config: Any) -> StarFlow:
    """Adapt all layers of all blocks, so that the outputs change a lot."""
    flow.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(MATRICES), **config))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in flow.named_parameters():
        if ".lora_" in name:
            values = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = values.to(parameter.dtype) * parameter.shape[-1] ** -0.5
            parameter.requires_grad_(False)
    return flow


def adapter_tensors(flow: StarFlow) -> dict[str, Tensor]:
    """The tensors of the adapter of `add_random_adapter`, as in a file."""
    tensors = peft.get_peft_model_state_dict(flow, adapter_name="default", save_embedding_layers=False)
    return {f"flow.{name}": tensor for name, tensor in tensors.items()}


def save_random_adapter(pipeline: StarFlowPipeline, folder: Path, seed: int = 1, **config: Any) -> Path:
    """Write a random adapter for a pipeline, which does not change."""
    flow = add_random_adapter(copy.deepcopy(pipeline.flow), seed, **config)
    tensors = {name.removeprefix("flow."): tensor for name, tensor in adapter_tensors(flow).items()}
    StarFlowPipeline.save_lora_weights(folder, tensors, flow.peft_config["default"].to_dict())
    return folder
