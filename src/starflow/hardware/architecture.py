"""A model built from its configuration files on the meta device: names and shapes without weights."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from torch import nn
from transformers import T5Config, T5EncoderModel

from starflow.convert.presets import released_model
from starflow.convert.released import build
from starflow.errors import StarflowError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.weights.components import part_config
from starflow.weights.models import read_index, released_preset, resolve_model


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, as modules are
class Architecture:
    """The parts of a pipeline, on the meta device, and its settings."""

    text_encoder: T5EncoderModel
    flow: StarFlow
    denoiser: CausalDenoiser | None
    vae: AutoencoderKLWan | AutoencoderKL
    settings: Mapping[str, Any]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The parts by their names in the pipeline."""
        named = {"text_encoder": self.text_encoder, "flow": self.flow, "denoiser": self.denoiser, "vae": self.vae}
        return {name: part for name, part in named.items() if part is not None}

    def pipeline(self) -> StarFlowPipeline:
        """A pipeline with the settings and sizes of the model. It cannot make videos."""
        known = inspect.signature(StarFlowPipeline).parameters.keys() - {*self.parts, "tokenizer", "denoiser"}
        settings = {name: value for name, value in self.settings.items() if name in known}
        return StarFlowPipeline(self.vae, self.text_encoder, None, self.flow, self.denoiser, **settings)


def load_architecture(model: str) -> Architecture:
    """The model that `StarFlowPipeline.from_pretrained(model)` loads, without weights. Downloads only JSON files.

    Raises StarflowError if there is no such model, or one of its configuration files is missing or damaged.
    """
    if (preset := released_preset(model)) is not None:
        released = released_model(preset)
        flow, denoiser = build(released.arguments)
        text_config, vae_config = released.text_encoder.config(), released.vae.config()
        settings: Mapping[str, Any] = released.settings
    else:
        folder = resolve_model(model)
        settings = read_index(folder)
        configs = {name: part_config(folder, name, settings) for name in ("flow", "denoiser", "text_encoder", "vae")}
        if not (configs["flow"] and configs["vae"] and configs["text_encoder"]):
            raise StarflowError(f"the model {model} is damaged: it lacks the flow, the VAE or the text encoder")
        with torch.device("meta"):
            flow = StarFlow.from_config(configs["flow"])
            denoiser = CausalDenoiser.from_config(configs["denoiser"]) if configs["denoiser"] else None
        text_config, vae_config = configs["text_encoder"], configs["vae"]
    vae_class = AutoencoderKLWan if "dim_mult" in vae_config else AutoencoderKL
    with torch.device("meta"):
        text_encoder, vae = T5EncoderModel(T5Config(**text_config)), vae_class.from_config(vae_config)
    return Architecture(text_encoder.eval(), flow.eval(), denoiser, vae.eval(), settings)
