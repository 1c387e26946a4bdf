"""Training the flow, its text encoder and, by flow-score matching, the denoiser if there is one, all at once.

`FlowStep` is a training step; `train_flow` is a whole run. Source: STARFlow-V, arXiv 2511.20462.

Legend: `B` batch, `T` latent frames, `H W` latent rows and columns, `D` latent channels, `M` text tokens.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from inspect import signature
from math import log
from pathlib import Path
from shlex import quote
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from starflow.config import save_config
from starflow.data.latents import LatentCache
from starflow.data.sources import build_source
from starflow.data.tasks import Batch, Mixture
from starflow.data.texts import TextCache
from starflow.encoders.text import T5_EMBEDDINGS, encode_text, wrap_captions
from starflow.errors import StarflowError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.loss import NOISE_UNIT, add_noise, negative_log_likelihood, training_loss, training_score
from starflow.flow.model import StarFlow
from starflow.hardware.flops import TrainingFlops
from starflow.media.files import atomic_write
from starflow.media.frames import from_unit
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.auxiliary import AuxiliaryLoss, build_auxiliary_loss
from starflow.train.config import FlowTrainConfig, LoopConfig
from starflow.train.flow_data import open_format, open_mixture, open_texts
from starflow.train.log import add_video
from starflow.train.loop import autocast, micro_generator, resume_or_start, seed_everything, train
from starflow.train.models import build_pipeline, save_model
from starflow.train.processes import is_main, training_processes
from starflow.train.state import Trained, TrainState, create_state

# The first and last layers, which AdamW trains instead of Muon.
NOT_MUON = ("proj_in", "proj_text", "proj_action", "proj_out", "sos")
NUM_PREVIEWS = 4

Model = TypeVar("Model", StarFlow, CausalDenoiser)


class FlowStep:
    """A training step: the loss of the flow on noisy latents; its gradient there is the target of the denoiser.

    The denoiser and the text encoder are trained unless they are frozen: if a parameter of theirs requires a gradient.
    `texts` are the encodings of a frozen text encoder. Without them, it encodes the captions of each batch anew.
    """

    def __init__(
        self,
        pipeline: StarFlowPipeline,
        mixture: Mixture,
        loop: LoopConfig,
        auxiliary: AuxiliaryLoss | None = None,
        auxiliary_weight: float = 1.0,
        texts: TextCache | None = None,
    ):
        self.flow, self.denoiser = pipeline.flow, pipeline.denoiser if is_trained(pipeline.denoiser) else None
        self.pipeline, self.mixture, self.loop, self.texts = pipeline, mixture, loop, texts
        self.auxiliary, self.auxiliary_weight = auxiliary, auxiliary_weight
        self.flops = TrainingFlops(
            _without_weights(self.flow, self.flow.deep.proj_in.weight.requires_grad),  # which adapters leave alone
            None if self.denoiser is None else _without_weights(self.denoiser, True),
        )

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        """Add the gradients of `scale` times the losses; see `starflow.train.loop.TrainingStep`."""
        noise_std = self.pipeline.config.noise_std
        start = time.perf_counter()
        batch = self.mixture.batch(step * self.loop.accumulation + micro_step)
        data_seconds = time.perf_counter() - start
        generated = slice(batch.num_given, None)
        generator = micro_generator(self.loop, step, micro_step)
        noisy = add_noise(batch.latents.to(self.flow.device), noise_std, generator)
        noisy.requires_grad_(self.denoiser is not None)
        num_elements = noisy[:, generated].numel()

        with autocast(self.loop):
            text = self._encode(batch)
            encoded = self.flow(noisy, text, None if batch.actions is None else batch.actions.to(noisy.device))
            auxiliary = self._auxiliary_nats(batch, noisy.detach(), text)
        loss = training_loss(encoded, noise_std, batch.num_given)
        auxiliary_loss = self.auxiliary_weight * noise_std / NOISE_UNIT * auxiliary.sum() / num_elements
        (scale * (loss + auxiliary_loss)).backward()

        nats = negative_log_likelihood(encoded)[:, generated].mean().item()
        metrics = {
            "loss": loss.item(),
            "nats_per_dim": nats,
            **{
                f"{name}/{part}": value
                for part in (batch.task, "x".join(map(str, batch.bucket)))
                for name, value in (("loss", loss.item()), ("nats_per_dim", nats), ("bits_per_dim", nats / log(2)))
            },
            "clips": float(len(noisy)),
            "tokens": float(noisy.numel() // noisy.shape[2]),
            "flops": float(self.flops(noisy, text)),
            "data_seconds": data_seconds,
        }
        if self.denoiser is not None:
            # The backward pass also gave the score at the input. The denoiser's loss has no gradient in the flow.
            assert noisy.grad is not None
            target = training_score(noisy.grad / scale, noise_std, num_elements)
            with autocast(self.loop):
                prediction = self.denoiser(noisy.detach(), text.detach())
            denoiser_loss = (prediction.float() - target)[:, generated].square().mean()
            (scale * denoiser_loss).backward()
            metrics["denoiser_loss"] = denoiser_loss.item()
        return metrics if self.auxiliary is None else metrics | {"auxiliary_nats": auxiliary.mean().item()}

    def _encode(self, batch: Batch) -> Tensor:
        """The batch's captions, wrapped as `StarFlowPipeline.encode_prompt` does, → `(B, M, text width)`."""
        model = self.pipeline
        fps = 0 if batch.is_image else model.config.fps
        size = model.codec.video_size(batch.latents)
        wrapped = wrap_captions(batch.captions, model.config, fps, size)
        if self.texts is not None:
            return self.texts.read(wrapped).to(model.flow.device)
        with torch.set_grad_enabled(is_trained(model.text_encoder)):
            return encode_text(model.tokenizer, model.text_encoder, wrapped, model.config.max_text_tokens)

    def _auxiliary_nats(self, batch: Batch, noisy: Tensor, text: Tensor) -> Tensor:
        if self.auxiliary is None:
            return torch.zeros(len(noisy), device=noisy.device)
        return self.auxiliary(batch, noisy, text)


def _without_weights(model: Model, is_trained: bool) -> Model:
    """A model of the same configuration on the meta device."""
    with torch.device("meta"):
        copy = type(model)(**{name: model.config[name] for name in signature(type(model)).parameters})
    return copy.requires_grad_(is_trained)


def is_trained(module: nn.Module | None) -> bool:
    """Whether a parameter of a module, if there is one, requires a gradient."""
    return module is not None and any(parameter.requires_grad for parameter in module.parameters())


def train_flow(config: FlowTrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says, in all processes that torchrun has started.

    Returns the folder of the final model, `output`/final, for `from_pretrained`.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as in `starflow.train.loop`, and if parts are missing or do not
            fit together, or there are no clips to train on.
    """
    with training_processes(config.loop.device):
        return _train_flow(config, resume)


def _train_flow(config: FlowTrainConfig, resume: bool) -> Path:
    output, device = Path(config.output), config.loop.device
    seed_everything(config.loop.seed)
    source = build_source(config.data)
    opened = open_format(config)
    mixture = open_mixture(config, source, opened)
    pipeline = build_pipeline(config, opened.settings, opened.codec, opened.init, mixture.cache)
    texts = None
    if not config.train_text_encoder:
        texts = open_texts(config, mixture, opened.settings, pipeline.tokenizer, pipeline.text_encoder)
    auxiliary = None
    if config.auxiliary_loss is not None:
        auxiliary = build_auxiliary_loss(config.auxiliary_loss, pipeline.flow, source)
    step = FlowStep(pipeline, mixture, config.loop, auxiliary, config.auxiliary_weight, texts)
    state = _create_state(pipeline, auxiliary, config)
    resume_or_start(state, output, resume)
    if is_main():
        with atomic_write(output / "config.yaml") as temporary:
            save_config(config, temporary)
    prompts = preview_prompts(mixture.cache)

    def preview(modules: Mapping[str, nn.Module], writer: SummaryWriter, step: int) -> None:
        write_preview(with_modules(pipeline, modules), prompts, writer, output / "previews", step)

    with fast_attention(device):
        train(state, step, config.loop, output, preview)
    averaged = state.averaged()
    if is_main():
        with atomic_write(output / "final") as temporary:
            save_model(with_modules(pipeline, averaged), temporary)
    tqdm.write(f"try it: starflow generate {quote(prompts[0])} --model {quote(str(output / 'final'))} -o video.mp4")
    return output / "final"


def fast_attention(device: str) -> AbstractContextManager[None]:
    """A context for training. On CPUs, fused attention is slow backwards, for sequences as short as a frame."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


def preview_prompts(cache: LatentCache) -> list[str]:
    """A caption of each of the first clips."""
    return [clip.captions[0] for clip in cache.clips[:NUM_PREVIEWS]]


def _create_state(pipeline: StarFlowPipeline, auxiliary: AuxiliaryLoss | None, config: FlowTrainConfig) -> TrainState:
    trained = {"flow": Trained(pipeline.flow, config.optimizer, NOT_MUON)}
    if pipeline.denoiser is not None:
        trained["denoiser"] = Trained(pipeline.denoiser, config.denoiser_optimizer, NOT_MUON)
    if config.train_text_encoder:
        trained["text_encoder"] = Trained(pipeline.text_encoder, config.optimizer, T5_EMBEDDINGS)
    if auxiliary is not None:
        trained["auxiliary"] = Trained(auxiliary.module, replace(config.optimizer, muon_lr=0))
    return create_state(trained, config.loop, config.parallel)


def with_modules(pipeline: StarFlowPipeline, modules: Mapping[str, nn.Module]) -> StarFlowPipeline:
    """A pipeline with other modules in place of its own. Modules that a pipeline does not have are left out."""
    pipeline = copy(pipeline)
    pipeline.register_modules(**{name: module for name, module in modules.items() if name in pipeline.components})
    return pipeline


def write_preview(
    pipeline: StarFlowPipeline, prompts: list[str], writer: SummaryWriter, folder: Path, step: int
) -> None:
    """Write and log a video of a few captions side by side. If it cannot be made yet, print the reason."""
    try:
        videos = [pipeline(prompt, generator=torch.Generator().manual_seed(0), output_type="np") for prompt in prompts]
    except StarflowError as error:
        tqdm.write(f"no preview at step {step}: {error}")
        return
    side_by_side = np.concatenate([video.frames[0] for video in videos], axis=-2)
    add_video(writer, folder / f"step-{step:08d}.gif", from_unit(side_by_side), pipeline.config.fps, step)
