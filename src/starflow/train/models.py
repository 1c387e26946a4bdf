"""The models of `starflow train flow` and `starflow train lora`: loaded or with new networks, and saved."""

import copy
from collections.abc import Iterator
from dataclasses import asdict
from inspect import signature
from itertools import chain
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.configuration_utils import FrozenDict
from diffusers.models.modeling_utils import ModelMixin
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from starflow.data.latents import CachedClip, LatentCache
from starflow.encoders.text import (
    EXTEND,
    LAST,
    VIDEO_TO_VIDEO,
    load_text_encoder,
    tiny_text_encoder,
    train_tokenizer,
    wrap_captions,
)
from starflow.encoders.video import VideoCodec
from starflow.encoders.vocabulary import add_words
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.hardware.quantization import quantization_config
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import ClipsConfig, FlowTrainConfig, LoraTrainConfig, PipelineConfig
from starflow.weights.components import KNOWN_CONFIGS, Component, load_components

NEEDED = ("num_frames", "fps", "height", "width")  # settings without a default
BASE_PRECISIONS = ("float32", "bfloat16", "int8")  # of the frozen weights of a LoRA


def pipeline_settings(config: PipelineConfig, init: StarFlowPipeline | None) -> FrozenDict:
    """All settings of the model. Where the config has None, they are those of `init`, or else the pipeline's defaults.

    Raises UsageError if a setting without a default is missing and there is no `init`.
    """
    given = {name: value for name, value in asdict(config).items() if value is not None}
    missing = [f"pipeline.{name}" for name in NEEDED if name not in given]
    if init is None and missing:
        raise UsageError(f"without init, the config must set {', '.join(missing)}")
    parameters = signature(StarFlowPipeline.__init__).parameters
    defaults = init.config if init is not None else {name: parameters[name].default for name in asdict(config)}
    return FrozenDict({name: given.get(name, defaults[name]) for name in asdict(config)})


def load_vae(config: FlowTrainConfig, init: StarFlowPipeline | None) -> AutoencoderKLWan | AutoencoderKL:
    """The frozen autoencoder of the config, or else that of `init`. Raises UsageError if there is none."""
    if config.vae in KNOWN_CONFIGS:
        vae = load_components({"_components": {"vae": config.vae}})["vae"]
    elif config.vae is not None:
        if not Path(config.vae, "config.json").is_file():
            raise UsageError(f"no autoencoder at {config.vae}: train it first, with `starflow train vae`")
        vae = AutoencoderKLWan.from_pretrained(config.vae)
    elif init is not None:
        vae = init.vae
    else:
        raise UsageError("set `vae`, the folder of a trained autoencoder, or `init`, a model to start from")
    return vae.requires_grad_(False).eval().to(config.loop.device)


def load_text(
    config: ClipsConfig, init: StarFlowPipeline | None
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel] | None:
    """The tokenizer and the text encoder of the config, or else those of `init`; None if they are to be trained."""
    name = config.text_encoder if isinstance(config, FlowTrainConfig) else None
    if name in KNOWN_CONFIGS:
        loaded = load_components({"_components": {"text_encoder": name}}, torch.float32)
        return loaded["tokenizer"], loaded["text_encoder"]
    if name is not None:
        return load_text_encoder(name)
    return None if init is None else (init.tokenizer, init.text_encoder)


def load_base(config: LoraTrainConfig) -> StarFlowPipeline:
    """The frozen model of a LoRA on its device, with the size and the rate of the clips in training as its settings.

    The autoencoder is in float32, because the latents are cached for other runs too.

    Raises UsageError for an unknown precision, StarflowError if the model does not load.
    """
    precision, device = config.base_precision, config.loop.device
    if precision not in BASE_PRECISIONS:
        raise UsageError(f"unknown base_precision {precision!r}: choose {', '.join(BASE_PRECISIONS)}")
    options: dict[str, Any] = {}
    if precision == "int8":
        options["quantization_config"] = quantization_config(precision, device)
    default = torch.float32 if precision == "float32" else torch.bfloat16
    dtype = {"vae": torch.float32, "default": default}
    pipeline = StarFlowPipeline.from_pretrained(config.init, dtype=dtype, **options)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    given = {name: value for name in NEEDED if (value := getattr(config, name)) is not None}
    pipeline.register_to_config(**given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def build_pipeline(
    config: FlowTrainConfig, settings: FrozenDict, codec: VideoCodec, init: StarFlowPipeline | None, cache: LatentCache
) -> StarFlowPipeline:
    """The model to train. Trained parts are in training mode; the others are frozen, and on the config's device.

    Raises UsageError if the parts do not fit together.
    """
    text = load_text(config, init)
    if text is not None:
        tokenizer, text_encoder = text
    else:
        tokenizer = build_tokenizer(cache, settings, config.text.vocab_size)
        text_encoder = tiny_text_encoder(len(tokenizer), config.text.width, config.text.num_layers)
    if init is not None:
        flow, denoiser = init.flow, init.denoiser
    else:
        flow, denoiser = new_networks(config, settings, codec, text_encoder.config.d_model)
    _check_widths(config, flow, text_encoder, codec)
    if cache.action_space is not None and flow.action_space is None:
        flow.add_actions(cache.action_space)
    require_actions(flow, cache.action_space)
    add_words(tokenizer, (text for clip in cache.clips for text in _texts(clip)))
    for module, is_trained in ((flow, True), (denoiser, True), (text_encoder, config.train_text_encoder)):
        if module is None:
            continue
        module.requires_grad_(is_trained).train(is_trained)
        if not is_trained:
            module.to(config.loop.device)
    pipeline = StarFlowPipeline(codec.vae, text_encoder, tokenizer, flow, denoiser, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _texts(clip: CachedClip) -> Iterator[str]:
    """All captions and instructions of a clip."""
    yield from clip.captions
    yield from clip.image_captions
    yield from clip.instructions.values()


def build_tokenizer(cache: LatentCache, settings: FrozenDict, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of all captions of the cache, in their template and with their task markers."""
    captions = [caption for clip in cache.clips for caption in clip.captions]
    marked = [marker + caption for marker in (EXTEND, LAST) for caption in captions]
    edits = [VIDEO_TO_VIDEO + text for clip in cache.clips for text in clip.instructions.values()]
    of_images = [caption for clip in cache.clips for caption in clip.image_captions]
    videos = wrap_captions(["", *captions, *marked, *edits], settings, settings.fps)
    return train_tokenizer(chain(videos, wrap_captions(["", *of_images], settings, 0)), vocab_size)


def text_encoder_config(name: str) -> dict[str, Any]:
    """The configuration of the text encoder `text_encoder` of a config. Raises StarflowError if there is none."""
    return Component.parse(name if name in KNOWN_CONFIGS else f"{name}/text_encoder").config()


def new_networks(
    config: FlowTrainConfig, settings: FrozenDict, codec: VideoCodec, text_width: int
) -> tuple[StarFlow, CausalDenoiser]:
    """A flow and a denoiser with new weights."""
    position_length = config.flow.position_length
    if position_length is None:
        position_length = sqrt(settings.height * settings.width) / codec.spatial_factor
    flow = StarFlow(
        codec.latent_channels,
        config.flow.shallow_layers,
        config.flow.deep_layers,
        config.flow.shallow_width,
        config.flow.deep_width,
        config.flow.head_dim,
        text_width,
        position_length,
        config.flow.soft_clip,
    )
    denoiser = CausalDenoiser(
        codec.latent_channels,
        config.denoiser.width,
        config.denoiser.num_layers,
        config.flow.head_dim,
        text_width,
        position_length,
        config.denoiser.temporal_causal,
        config.denoiser.window,
    )
    return flow, denoiser


def save_model(pipeline: StarFlowPipeline, folder: Path) -> None:
    """Write a folder for `from_pretrained`: the networks in bfloat16, the autoencoder in its own precision."""
    parts = pipeline.components
    for name in ("flow", "denoiser", "text_encoder"):
        if parts[name] is not None:
            parts[name] = copy.deepcopy(parts[name]).bfloat16()
    for part in parts.values():
        if isinstance(part, ModelMixin):
            part.register_to_config(_name_or_path="")  # a local path
    StarFlowPipeline(**parts).save_pretrained(folder)


def require_actions(flow: StarFlow, space: ActionSpace | None) -> None:
    """Raise UsageError if clips have actions, and the flow takes none or others."""
    if space is not None and flow.action_space != space:
        taken = "no actions" if flow.action_space is None else f"the actions {flow.action_space}"
        raise UsageError(f"the model takes {taken}, but the clips have {space}")


def _check_widths(config: FlowTrainConfig, flow: StarFlow, text_encoder: T5EncoderModel, codec: VideoCodec) -> None:
    given, wanted = text_encoder.config.d_model, flow.config["text_width"]
    if given != wanted:
        raise UsageError(
            f"the text encoder at {config.text_encoder} has the width {given}, but the flow needs {wanted}"
        )
    if codec.latent_channels != flow.config["latent_channels"]:
        raise UsageError(
            f"the autoencoder at {config.vae} has {codec.latent_channels} latent channels, but the flow of "
            f"{config.init} has {flow.config['latent_channels']}"
        )
