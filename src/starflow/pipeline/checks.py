"""Checks of the components of a pipeline and of the arguments of a call, and warnings about unusual values."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan

from starflow.errors import UsageError
from starflow.pipeline.options import Options

logger = logging.getLogger(__name__)

MUCH_GUIDANCE = 2  # times the guidance of the model
OTHER_SIZE = 3  # times a side of the videos of training, or a part of it
MUCH_LONGER = 20  # times the length of the videos of training


def check_components(vae: Any, text_encoder: Any, flow: Any, denoiser: Any) -> None:
    """Raise UsageError if components do not fit together."""
    if not isinstance(vae, AutoencoderKLWan | AutoencoderKL):
        raise UsageError(f"the VAE must be an AutoencoderKLWan or an AutoencoderKL, not {type(vae).__name__}")
    channels = vae.config.z_dim if isinstance(vae, AutoencoderKLWan) else vae.config.latent_channels
    widths = [("VAE", "latent channels", channels, "latent_channels")]
    widths += [("text encoder", "channels", text_encoder.config.d_model, "text_width")]
    if denoiser is not None:
        widths += [("denoiser", "latent channels", denoiser.config["latent_channels"], "latent_channels")]
    for part, what, width, name in widths:
        if width != flow.config[name]:
            raise UsageError(f"the {part} has {width} {what}, but the flow is made for {flow.config[name]}")


def check_device_map(device_map: Any) -> None:
    """Raise UsageError unless it is None or the name of a device."""
    if device_map is None or isinstance(device_map, torch.device):
        return
    try:
        torch.device(device_map)
    except (RuntimeError, TypeError):
        raise UsageError(
            f'device_map must be a device, such as "cuda", not {device_map!r}: for a model that is larger, use '
            "enable_model_cpu_offload(), or start several processes with torchrun"
        ) from None


def warn_of_unusual(asked: Options, num_frames: int, settings: Mapping[str, Any]) -> None:
    """Log warnings for options that are far from those of training, and for tasks that the model does badly."""
    usual = settings["guidance_scale"]
    if asked.guidance_scale is not None and asked.guidance_scale > MUCH_GUIDANCE * max(usual, 1):
        logger.warning(
            "guidance_scale %g is far above the %g of this model: the video may be nonsense",
            *(asked.guidance_scale, usual),
        )
    for name in ("height", "width"):
        trained, value = settings[name], getattr(asked, name)
        if not trained / OTHER_SIZE <= value <= OTHER_SIZE * trained:
            logger.warning(
                "a %s of %d pixels is far from the %d that this model was trained on: the video may be nonsense",
                *(name, value, trained),
            )
    trained = settings["num_frames"]
    if num_frames > MUCH_LONGER * trained:
        logger.warning(
            "%d frames are more than %d times the %d that this model was trained on: the video may drift",
            *(num_frames, MUCH_LONGER, trained),
        )
    for task, caveat in (settings["caveats"] or {}).items():
        if getattr(asked, task) is not None:
            logger.warning("%s: %s", task, caveat)


def checked_prompts(prompt: str | Sequence[str]) -> list[str]:
    """The prompts as a list. Raises UsageError if there are none, or one is empty or not a string."""
    if not isinstance(prompt, str | Sequence) or not all(isinstance(each, str) for each in prompt):
        raise UsageError(f"the prompt must be a string or a list of strings, not {prompt!r:.80}")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or any(not each.strip() for each in prompts):
        raise UsageError('the prompt is empty: describe the video, such as "a red circle moves right"')
    return prompts


def check_generator(generator: Any, num_videos: int) -> None:
    """Raise UsageError unless it is None, a generator, or a list with one for each video."""
    generators = generator if isinstance(generator, list) else [generator] * num_videos
    if any(each is not None and not isinstance(each, torch.Generator) for each in generators):
        raise UsageError(f"generator must be a torch.Generator or a list of them, not {generator!r:.80}")
    if len(generators) != num_videos:
        raise UsageError(
            f"a list of generators must have one for each of the {num_videos} videos, not {len(generators)}"
        )


def check_output_type(output_type: str, known: Sequence[str]) -> None:
    """Raise UsageError if the output type is unknown."""
    if output_type not in known:
        raise UsageError(f"unknown output type {output_type!r}: choose one of {', '.join(known)}")
