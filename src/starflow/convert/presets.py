"""The released models by name, and the released project's own configuration files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from starflow.convert.arguments import CONSTRUCTOR_ARGUMENTS, SUPPORTED_VALUES, check_arguments, given
from starflow.errors import UsageError
from starflow.media.sizes import size_of_aspect_ratio
from starflow.weights.components import Component, spatial_factor, text_width

# Arguments of the released trainer with another name in the constructor of the model.
RENAMED_ARGUMENTS = {"channel_size": "in_channels", "blocks": "num_blocks"}
# Arguments for training or for showing samples, which do not affect the model.
# fmt: off
TRAINING_ARGUMENTS = frozenset([
    "model_config_path", "train_seed", "data", "logdir", "dataset", "wds", "no_flip", "caption_column",
    "secondary_dataset", "secondary_img_size", "secondary_vid_size", "vae_decoder_factor", "batch_size",
    "secondary_batch_size", "secondary_ratio", "acc", "fp8", "use_8bit_adam", "epochs", "epoch_length", "lr",
    "min_lr", "drop_label", "drop_image", "last_frame_cond", "video_to_video", "resume_path", "resume_epoch",
    "warmup_steps", "fsdp", "fsdp_text_encoder", "gradient_checkpoint", "gradient_checkpoint_mlp", "compile",
    "latent_norm_regularization", "loss_scaling", "grad_clip", "grad_skip", "dry_run", "wandb_name", "save_every",
    "sample_freq", "cfg", "num_samples", "sample_batch_size",
])
# fmt: on
# Arguments with one supported value, which is their default.
FIXED_ARGUMENTS = {"nvp": 1, "adaln": 0, "noise_type": "gaussian", "finetuned_vae": "none"}
# Arguments that become settings of the pipeline.
PIPELINE_ARGUMENTS = frozenset(
    ["img_size", "vid_size", "txt_size", "noise_std", "fps_cond", "cond_noise_level", "mix_aspect", "vae", "text"]
)
KNOWN_ARGUMENTS = {
    *CONSTRUCTOR_ARGUMENTS,
    *PIPELINE_ARGUMENTS,
    *TRAINING_ARGUMENTS,
    *FIXED_ARGUMENTS,
    *RENAMED_ARGUMENTS,
}
SWITCHES = {name for name, value in SUPPORTED_VALUES.items() if isinstance(value, bool)} | {
    "learnable_self_denoiser",
    "conditional_denoiser",
    "shallow_block_local",
}

LICENSE = (
    "these weights are for non-commercial research only, under the Apple Machine Learning Research Model license, "
    "which also covers what is made from them: see https://huggingface.co/apple/starflow"
)
ASPECT_RATIO = "16:9"  # the default of the released sampler
IMAGE_FPS = 16  # for image models, which do not use it; the pipeline needs a value


@dataclass(frozen=True)
class ReleasedModel:
    """Everything that converting a released checkpoint needs besides the weights."""

    arguments: Mapping[str, Any]
    """The arguments of the released model's constructor."""
    vae: Component
    text_encoder: Component
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of `StarFlowPipeline`."""
    license: str | None = None
    """The license of the weights, if it is known."""


@dataclass(frozen=True)
class Preset:
    """A released model: the place of its weights, and the arguments of its configuration file that affect the model."""

    repository: str
    filename: str
    arguments: Mapping[str, Any]
    guidance_scale: float  # one more than `cfg` of the released sampler, which is 0 without guidance


COMMON = {
    "patch_size": 1,
    "channels": 3072,
    "blocks": 6,
    "layers_per_block": "2 2 2 2 2 24",
    "rope": 1,
    "sos": 1,
    "seq_order": "L2R",
    "use_softplus": 1,
    "cond_top_only": 1,
    "use_final_norm": 1,
    "soft_clip": 4,
    "text": "google/flan-t5-xl",
}
PRESETS = {
    "starflow-v-7b": Preset(
        "apple/starflow",
        "starflow-v_7B_t2v_caus_480p_v3.pth",
        {
            **COMMON,
            "img_size": 640,
            "txt_size": 256,
            "vid_size": "81:16",
            "channel_size": 48,
            "top_block_channels": 4096,
            "pt_seq_len": 32,
            "noise_std": 0.5,
            "fps_cond": 1,
            "cond_noise_level": 1,
            "mix_aspect": 1,
            "learnable_self_denoiser": 1,
            "conditional_denoiser": 1,
            "denoiser_window": 10,
            "temporal_causal": 2,
            "shallow_block_local": 1,
            "vae": "Wan-AI/Wan2.2-TI2V-5B-Diffusers:0.6",
        },
        guidance_scale=4.5,
    ),
    "starflow-3b": Preset(
        "apple/starflow",
        "starflow_3B_t2i_256x256.pth",
        {
            **COMMON,
            "img_size": 256,
            "txt_size": 128,
            "channel_size": 4,
            "noise_std": 0.3,
            "vae": "stabilityai/sd-vae-ft-ema",
        },
        guidance_scale=4.6,
    ),
}


def released_model(name: str | Path, vae: str | None = None, text_encoder: str | None = None) -> ReleasedModel:
    """A released model, by preset or by configuration file.

    Args:
        name: the name of a preset, or the path of a configuration file of the released project.
        vae: a hub id or a folder; None for the VAE that the configuration names.
        text_encoder: a hub id or a folder; None for the text encoder that the configuration names.

    Raises:
        UsageError: the name is unknown, or the file is not a supported configuration.
    """
    if str(name) in PRESETS:
        preset = PRESETS[str(name)]
        model = _from_arguments(preset.arguments, vae, text_encoder, {"guidance_scale": preset.guidance_scale})
        return replace(model, license=LICENSE)
    if not Path(name).is_file():
        raise UsageError(
            f"there is no configuration {name}: choose {', '.join(PRESETS)}, or a file of the released project"
        )
    return _from_arguments(read_arguments(Path(name)), vae, text_encoder, {})


def preset_of_file(filename: str) -> str | None:
    """The preset whose released file has this name, in any version (`…_v3.pth`), or None."""
    for name, preset in PRESETS.items():
        if Path(filename).name.startswith(re.sub(r"(_v\d+)?\.pth$", "", preset.filename)):
            return name
    return None


def read_arguments(path: Path) -> dict[str, Any]:
    """The arguments of the trainer in a configuration file of the released project.

    Raises UsageError for any other file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(name): value for row in content["arguments"] for name, value in row.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError):
        raise UsageError(
            f"{path} is not a configuration of the released project: it must hold `arguments:` and, under it, a list "
            "of `- name: value`"
        ) from None


def _from_arguments(
    arguments: Mapping[str, Any], vae: str | None, text_encoder: str | None, settings: Mapping[str, Any]
) -> ReleasedModel:
    check_arguments(arguments, FIXED_ARGUMENTS, KNOWN_ARGUMENTS)
    constructor = {RENAMED_ARGUMENTS.get(name, name): value for name, value in arguments.items()}
    constructor = {name: value for name, value in constructor.items() if name in CONSTRUCTOR_ARGUMENTS}
    constructor |= {name: bool(constructor[name]) for name in SWITCHES & constructor.keys()}
    constructor["layers_per_block"] = _layers_per_block(arguments)

    named_vae, _, later_frame_scale = str(given(arguments, "vae")).partition(":")
    vae_component = Component.parse(vae or _vae_of(named_vae))
    text_component = Component.parse(text_encoder or given(arguments, "text"))
    factor = spatial_factor(vae_component.config())
    constructor["img_size"] = int(given(arguments, "img_size")) // factor
    constructor["txt_dim"] = text_width(text_component.config())

    num_frames, fps = _length(arguments)
    width, height = size_of_aspect_ratio(
        ASPECT_RATIO if arguments.get("mix_aspect") else "1:1",
        given(arguments, "img_size"),
        factor * given(arguments, "patch_size"),
    )
    return ReleasedModel(
        constructor,
        vae_component,
        text_component,
        {
            "noise_std": float(arguments.get("noise_std", 0.3)),
            "num_frames": num_frames,
            "fps": fps,
            "height": height,
            "width": width,
            "max_text_tokens": given(arguments, "txt_size"),
            "later_frame_scale": float(later_frame_scale or 1),
            "caption_has_fps": bool(arguments.get("fps_cond")),
            "caption_has_noise_level": bool(arguments.get("cond_noise_level")),
            "caption_has_aspect_ratio": bool(arguments.get("mix_aspect")),
            **settings,
        },
    )


def _layers_per_block(arguments: Mapping[str, Any]) -> list[int]:
    """Layers of each block, from a list such as `"2 2 24"` or one number for all `blocks`."""
    layers = [int(each) for each in str(given(arguments, "layers_per_block")).split()]
    return layers * int(given(arguments, "blocks")) if len(layers) == 1 else layers


def _length(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Frames and frames per second from `vid_size`, such as `"81:16"`, which image models do not have."""
    if arguments.get("vid_size") is None:
        return 1, IMAGE_FPS
    num_frames, fps = str(arguments["vid_size"]).split(":")[:2]
    return int(num_frames), int(fps)


def _vae_of(name: str) -> str:
    """The place of the VAE `name` of the released code: usually a folder in the repository of a pipeline."""
    return name if "sd-vae" in name or "sdxl-vae" in name or Path(name).is_dir() else f"{name}/vae"
