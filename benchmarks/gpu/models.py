"""The released models' configurations with random weights, and tiny ones of the same kind for the CPU.

The text encoder is a small one of the right width: T5-XL is left out, as it is no part of what is measured.
"""

from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from starflow.encoders.text import tiny_text_encoder, train_tokenizer
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.hardware.architecture import Architecture, load_architecture
from starflow.pipeline.pipeline import StarFlowPipeline

PROMPT = "a red circle moves right"
NAMES = {"video": "starflow-v-7b", "image": "starflow-3b"}
TINY_SETTINGS = {
    "video": {"noise_std": 0.5, "num_frames": 9, "height": 64, "width": 96, "max_text_tokens": 8},
    "image": {"noise_std": 0.3, "num_frames": 1, "height": 16, "width": 16, "max_text_tokens": 8},
}
OUTPUT_STD = 0.1  # of what a block predicts: sigma stays near 1, and activations ordinary


def architecture_of(model: str, tiny: bool) -> Architecture:
    """The parts of the `video` or `image` model on the meta device, and its settings."""
    architecture = _tiny_architecture(model) if tiny else load_architecture(NAMES[model])
    with torch.device("meta"):
        text_encoder = tiny_text_encoder(len(_tokenizer()), architecture.flow.config["text_width"], layers=1).eval()
    return replace(architecture, text_encoder=text_encoder)


def pipeline_of(model: str, tiny: bool, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> StarFlowPipeline:
    """A pipeline whose weights are drawn on the device."""
    architecture = architecture_of(model, tiny)
    arguments: dict[str, Any] = {name: draw(part, device, dtype).eval() for name, part in architecture.parts.items()}
    pipeline = StarFlowPipeline(tokenizer=_tokenizer(), **arguments, **architecture.settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def draw(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Give a module on the meta device random weights, drawn on the device; matrices keep the scale of their input."""
    assert not list(module.buffers()), "to_empty would leave buffers without values"
    nn.Module.to(module, dtype).to_empty(device=device)
    for name, parameter in module.named_parameters():
        _draw(name, parameter)
    return module.requires_grad_(False)


def _draw(name: str, parameter: Tensor) -> None:
    if name.endswith("bias") or "final_norm" in name:
        parameter.zero_()
    elif parameter.ndim == 1 or name.endswith("gamma"):
        parameter.fill_(1)
    else:
        std = (parameter.numel() // parameter.shape[0]) ** -0.5
        parameter.normal_(std=OUTPUT_STD * std if "proj_out" in name else std)


def _tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([PROMPT], 300)


def _tiny_architecture(model: str) -> Architecture:
    with torch.device("meta"):
        if model == "video":
            channels = 16
            denoiser = CausalDenoiser(channels, 128, 2, head_dim=32, text_width=64, position_length=4)
            vae = AutoencoderKLWan(
                base_dim=8,
                z_dim=channels,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
                latents_mean=[0.0] * channels,
                latents_std=[1.0] * channels,
                is_residual=True,
                in_channels=12,
                out_channels=12,
                patch_size=2,
            )
        else:
            channels, denoiser = 4, None
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8),
                norm_num_groups=4,
            )
        flow = StarFlow(channels, [1, 1], 2, 128, 128, head_dim=32, text_width=64, position_length=4)
    settings = {"fps": 16, "guidance_scale": 4.5, **TINY_SETTINGS[model]}
    return Architecture(tiny_text_encoder(8, 64), flow, denoiser, vae.eval(), settings)
