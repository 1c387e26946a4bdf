"""A tiny model in the released format: state dict, configuration, and the components that it names."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from starflow.convert.released import build, released_parameters
from tiny_pipeline import HEAD_DIM, LATENT_CHANNELS, TEXT_WIDTH, tiny_pipeline

# The released trainer's arguments, for a video model and for an image model.
VIDEO = {
    "fsdp": 1,
    "img_size": 32,
    "txt_size": 32,
    "vid_size": "'9:8'",
    "fps_cond": 1,
    "channel_size": LATENT_CHANNELS,
    "patch_size": 1,
    "channels": HEAD_DIM,
    "top_block_channels": 2 * HEAD_DIM,
    "blocks": 3,
    "layers_per_block": "1 1 2",
    "noise_std": 0.5,
    "lr": "5e-5",
    "nvp": 1,
    "rope": 1,
    "adaln": 0,
    "sos": 1,
    "seq_order": "L2R",
    "pt_seq_len": 2,
    "head_dim": HEAD_DIM,
    "mix_aspect": 1,
    "use_softplus": 1,
    "cond_top_only": 1,
    "use_final_norm": 1,
    "learnable_self_denoiser": 1,
    "conditional_denoiser": 1,
    "denoiser_window": 3,
    "cond_noise_level": 1,
    "temporal_causal": 2,
    "shallow_block_local": 1,
    "finetuned_vae": "none",
    "soft_clip": 4,
    "cfg": 2.5,
}
# fmt: off
VIDEO_ONLY = [
    "vid_size", "fps_cond", "top_block_channels", "mix_aspect", "learnable_self_denoiser", "conditional_denoiser",
    "denoiser_window", "cond_noise_level", "temporal_causal", "shallow_block_local", "pt_seq_len",
]
# fmt: on
IMAGE = {name: value for name, value in VIDEO.items() if name not in VIDEO_ONLY}

# The released constructor's arguments for the same video model.
ARGUMENTS: dict[str, Any] = {
    "patch_size": 1,
    "rope": True,
    "sos": True,
    "cond_top_only": True,
    "use_softplus": True,
    "use_final_norm": True,
    "seq_order": "L2R",
    "soft_clip": 4,
    "in_channels": LATENT_CHANNELS,
    "img_size": 2,
    "channels": HEAD_DIM,
    "top_block_channels": 2 * HEAD_DIM,
    "num_blocks": 3,
    "layers_per_block": [1, 1, 2],
    "head_dim": HEAD_DIM,
    "pt_seq_len": 2,
    "txt_dim": TEXT_WIDTH,
    "learnable_self_denoiser": True,
    "conditional_denoiser": True,
    "temporal_causal": 2,
    "denoiser_window": 3,
    "shallow_block_local": True,
}


def released_state(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """A random state dict as the released project saves it, with its unused buffers."""
    state = {name: 0.1 * torch.randn(shape) for name, shape in released_parameters(*build(arguments)).items()}
    buffers = {"var": 2, "blocks.0.attn_mask": 3, "blocks.2.attn_mask": 3, "feat_rope.freqs_cos": 4}
    return state | {name: torch.rand(size, size) for name, size in buffers.items()}


def save(state: Any, folder: Path, name: str = "model.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def write_config(folder: Path, arguments: dict[str, Any]) -> Path:
    """Write a configuration file in the released format."""
    path = folder / "config.yaml"
    path.write_text("arguments:\n" + "".join(f"- {name}: {value}\n" for name, value in arguments.items()))
    return path


def save_components(folder: Path) -> dict[str, str]:
    """Save a tiny VAE and a tiny text encoder; returns their folders as entries of the configuration."""
    pipeline = tiny_pipeline()
    pipeline.vae.save_pretrained(folder / "vae")
    pipeline.text_encoder.save_pretrained(folder / "text")
    pipeline.tokenizer.save_pretrained(folder / "text")
    return {"vae": f"{folder / 'vae'}:0.6", "text": str(folder / "text")}


def save_image_components(folder: Path) -> dict[str, str]:
    """Like `save_components`, with the class of VAE of the released image model."""
    components = save_components(folder)
    blocks = 5  # 16 pixels per latent
    vae = AutoencoderKL(
        block_out_channels=[4] * blocks,
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        sample_size=32,
    )
    vae.save_pretrained(folder / "image-vae")
    return components | {"vae": str(folder / "image-vae")}
