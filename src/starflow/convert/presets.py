"""The released models by name, and the released project's own configuration files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from starflow.convert.released import (
    INERT_ARGUMENTS,
    OPTIONAL_ARGUMENTS,
    READ_ARGUMENTS,
    REQUIRED_ARGUMENTS,
    did_you_mean,
)
from starflow.errors import UsageError
from starflow.media.sizes import size_of_aspect_ratio
from starflow.weights.components import Component, spatial_factor, text_width

# The released trainer's arguments that are the model constructor's under another name.
RENAMED_ARGUMENTS = {"channel_size": "in_channels", "blocks": "num_blocks"}
# Those that say how the model was trained or how samples are shown, and nothing about what it is.
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
# Those that must have one value, if they are given.
FIXED_ARGUMENTS = {"nvp": 1, "adaln": 0, "noise_type": "gaussian", "finetuned_vae": "none"}
# Those that become settings of the pipeline.
PIPELINE_ARGUMENTS = frozenset(
    ["img_size", "vid_size", "txt_size", "noise_std", "fps_cond", "cond_noise_level", "mix_aspect", "vae", "text"]
)
CONSTRUCTOR_ARGUMENTS = {*REQUIRED_ARGUMENTS, *OPTIONAL_ARGUMENTS, *READ_ARGUMENTS, *INERT_ARGUMENTS}
SWITCHES = frozenset(
    name for name, value in {**REQUIRED_ARGUMENTS, **OPTIONAL_ARGUMENTS}.items() if isinstance(value, bool)
) | {"learnable_self_denoiser", "conditional_denoiser", "shallow_block_local"}

ASPECT_RATIO = "16:9"  # what the released sampler makes unless told otherwise
IMAGE_FPS = 16  # of a model of images: the setting needs a value, and it is never shown


@dataclass(frozen=True)
class ReleasedModel:
    """All that converting a released checkpoint needs to know beside its weights."""

    arguments: Mapping[str, Any]
    """The released model constructor's arguments."""
    vae: Component
    text_encoder: Component
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of `StarFlowPipeline`."""


@dataclass(frozen=True)
class Preset:
    """A released model: where its weights are, and the arguments of its configuration file that matter."""

    repository: str
    filename: str
    arguments: Mapping[str, Any]
    guidance_scale: float


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
        guidance_scale=3.5,
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
        guidance_scale=3.6,
    ),
}


def released_model(name: str | Path, vae: str | None = None, text_encoder: str | None = None) -> ReleasedModel:
    """A released model by the name of a preset, or by the path of the released project's configuration file.

    `vae` and `text_encoder` (hub ids or folders) win over those that it names. Raises UsageError for an unknown name,
    and for a file that is not such a configuration.
    """
    if str(name) in PRESETS:
        preset = PRESETS[str(name)]
        return _from_arguments(preset.arguments, vae, text_encoder, {"guidance_scale": preset.guidance_scale})
    if not Path(name).is_file():
        raise UsageError(f"no configuration {name}: give {', '.join(PRESETS)}, or a file of the released project")
    return _from_arguments(read_arguments(Path(name)), vae, text_encoder, {})


def preset_of_file(filename: str) -> str | None:
    """The preset whose released file has this name, whatever its version (`…_v3.pth`); None if there is none."""
    for name, preset in PRESETS.items():
        if Path(filename).name.startswith(re.sub(r"(_v\d+)?\.pth$", "", preset.filename)):
            return name
    return None


def read_arguments(path: Path) -> dict[str, Any]:
    """The trainer's arguments in a configuration file of the released project: a list under `arguments:`.

    Raises UsageError for another file.
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
    _check_names(arguments)
    constructor = {RENAMED_ARGUMENTS.get(name, name): value for name, value in arguments.items()}
    constructor = {name: value for name, value in constructor.items() if name in CONSTRUCTOR_ARGUMENTS}
    constructor |= {name: bool(constructor[name]) for name in SWITCHES & constructor.keys()}
    constructor["layers_per_block"] = _layers_per_block(arguments)

    named_vae, _, later_frame_scale = str(_given(arguments, "vae")).partition(":")
    vae_component = Component.parse(vae or _vae_of(named_vae))
    text_component = Component.parse(text_encoder or _given(arguments, "text"))
    factor = spatial_factor(vae_component.config())
    constructor["img_size"] = int(_given(arguments, "img_size")) // factor
    constructor["txt_dim"] = text_width(text_component.config())

    num_frames, fps = _length(arguments)
    width, height = size_of_aspect_ratio(
        ASPECT_RATIO if arguments.get("mix_aspect") else "1:1",
        _given(arguments, "img_size"),
        factor * _given(arguments, "patch_size"),
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
            "max_text_tokens": _given(arguments, "txt_size"),
            "later_frame_scale": float(later_frame_scale or 1),
            "caption_has_fps": bool(arguments.get("fps_cond")),
            "caption_has_noise_level": bool(arguments.get("cond_noise_level")),
            "caption_has_aspect_ratio": bool(arguments.get("mix_aspect")),
            **settings,
        },
    )


def _check_names(arguments: Mapping[str, Any]) -> None:
    for name, value in FIXED_ARGUMENTS.items():
        if arguments.get(name, value) != value:
            raise UsageError(f"cannot convert a model with {name}={arguments[name]!r}: only {value!r} is supported")
    known = {*CONSTRUCTOR_ARGUMENTS, *PIPELINE_ARGUMENTS, *TRAINING_ARGUMENTS, *FIXED_ARGUMENTS, *RENAMED_ARGUMENTS}
    if unknown := sorted(arguments.keys() - known):
        raise UsageError(f"the configuration has the unknown argument {unknown[0]}{did_you_mean(unknown[0], known)}")


def _given(arguments: Mapping[str, Any], name: str) -> Any:
    if arguments.get(name) is None:
        raise UsageError(f"the configuration does not give {name}")
    return arguments[name]


def _layers_per_block(arguments: Mapping[str, Any]) -> list[int]:
    """`"2 2 24"` lists the blocks' layers; a single number is that of each of `blocks`."""
    layers = [int(each) for each in str(_given(arguments, "layers_per_block")).split()]
    return layers * int(_given(arguments, "blocks")) if len(layers) == 1 else layers


def _length(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Frames and frames per second from `vid_size`, `"81:16"`; a model of images has none."""
    if arguments.get("vid_size") is None:
        return 1, IMAGE_FPS
    num_frames, fps = str(arguments["vid_size"]).split(":")[:2]
    return int(num_frames), int(fps)


def _vae_of(name: str) -> str:
    """Where the VAE that the released code calls `name` lies: most are a folder of a pipeline's repository."""
    return name if "sd-vae" in name or "sdxl-vae" in name or Path(name).is_dir() else f"{name}/vae"
