"""Training the flow end to end, with its text encoder, and in the same pass the denoiser by flow-score matching.

`FlowStep` is one step of it, `train_flow` all of it. Source: STARFlow-V, arXiv 2511.20462.

Legend: B batch, T latent frames, H W latent rows and columns, D latent channels, M text tokens.
"""

from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from math import log, pi
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from starflow.config import save_config
from starflow.data.latents import LatentCache, open_latent_cache
from starflow.data.source import Toyworld
from starflow.data.tasks import Batch, Mixture
from starflow.encoders.text import (
    T5_EMBEDDINGS,
    encode_text,
    load_text_encoder,
    tiny_text_encoder,
    train_tokenizer,
    wrap_caption,
)
from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.flow.denoiser import NOISE_UNIT, CausalDenoiser, score_prediction
from starflow.flow.model import StarFlow
from starflow.media.files import atomic_write
from starflow.pipeline.inputs import EXTEND, LAST, VIDEO_TO_VIDEO
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.teaching.cells import NOTHING
from starflow.toyworld.teaching.grounding import GroundingHead, states_halfway
from starflow.toyworld.world.vocabulary import FPS, FRAME_SIZE, NUM_FRAMES
from starflow.train.checkpoint import TrainState
from starflow.train.config import FlowTrainConfig
from starflow.train.loop import (
    autocast,
    create_state,
    micro_generator,
    parameter_groups,
    resume_or_start,
    seed_everything,
    train,
)

# First and last layers, which Muon leaves to AdamW.
NOT_MUON = ("proj_in", "proj_text", "proj_out", "sos")
SAMPLE_PROMPTS = (
    "a red circle moves right",
    "a large blue square grows",
    "a green triangle bounces",
    "a yellow circle orbits",
)


class FlowStep:
    """One training step: noised latents through the flow, its gradient at the input as the denoiser's target."""

    def __init__(
        self,
        flow: StarFlow,
        denoiser: CausalDenoiser,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        mixture: Mixture,
        config: FlowTrainConfig,
        grounding_head: GroundingHead | None = None,
    ):
        self.flow, self.denoiser, self.text_encoder, self.tokenizer = flow, denoiser, text_encoder, tokenizer
        self.mixture, self.config, self.grounding_head = mixture, config, grounding_head

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        """Add the gradients of `scale` times the losses; see `starflow.train.loop.TrainingStep`."""
        noise_std, device = self.config.noise_std, self.flow.device
        batch = self.mixture.batch(step * self.config.loop.accumulation + micro_step)
        clean = batch.latents.to(device)
        generator = micro_generator(self.config.loop, step, micro_step)
        noisy = (clean + noise_std * torch.randn(clean.shape, generator=generator, device=device)).requires_grad_()
        made = slice(batch.num_given, None)
        num_dims = clean[:, made].numel()
        weight = scale * noise_std / NOISE_UNIT / num_dims

        with autocast(self.config.loop):
            text = self._encode(batch.captions, fps=0 if batch.is_image else FPS)
            steps = list(self.flow.run_blocks(noisy.permute(0, 1, 3, 4, 2), text))
        log_det = sum(block.log_det for block in steps)
        nats = (0.5 * steps[-1].hidden.square() - log_det)[:, made].flatten(1).sum(dim=1)
        grounding = self._ground(steps[-2].hidden, text, batch)
        (weight * (nats + self.config.grounding * grounding).sum()).backward()

        # The backward pass that trains the flow gives the score at its input; the denoiser's loss stays off the flow.
        assert noisy.grad is not None
        target = score_prediction(noisy.grad / (weight * clean.numel()), noise_std)
        with autocast(self.config.loop):
            prediction = self.denoiser(noisy.detach(), text.detach())
        denoiser_loss = (prediction.float() - target)[:, made].square().mean()
        (scale * denoiser_loss).backward()

        loss = nats.sum().item() / num_dims
        return {
            "loss": loss,
            "nats_per_dim": loss + 0.5 * log(2 * pi),
            "grounding_loss": grounding.sum().item() / max(1, int((batch.cells != NOTHING).sum())),
            "denoiser_loss": denoiser_loss.item(),
            "clips": float(len(clean)),
        }

    def _ground(self, u: Tensor, text: Tensor, batch: Batch) -> Tensor:
        """The cross-entropy `(B)` of what is seen where in the first frame, in nats."""
        if self.grounding_head is None:
            return torch.zeros(len(u), device=u.device)
        with autocast(self.config.loop):
            states = states_halfway(self.flow, u.detach(), text, batch.num_given)
            return self.grounding_head(states, batch.cells.to(u.device))

    def _encode(self, captions: list[str], fps: float) -> Tensor:
        wrapped = [wrap_caption(caption, fps=fps) for caption in captions]
        return encode_text(self.tokenizer, self.text_encoder, wrapped, self.config.text.max_tokens)


def load_codec(folder: str | None, later_frame_scale: float, device: str) -> VideoCodec:
    """The autoencoder in `folder`, frozen. Raises UsageError if there is none."""
    if folder is None:
        raise UsageError("set `vae`, the folder of a trained autoencoder, or `init`, a model to go on from")
    if not Path(folder, "config.json").is_file():
        raise UsageError(f"no autoencoder at {folder}: train it first, with `starflow train vae`")
    vae = AutoencoderKLWan.from_pretrained(folder).requires_grad_(False).eval().to(device)
    return VideoCodec(vae, later_frame_scale)


def build_tokenizer(cache: LatentCache, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of all captions of the cache, wrapped and with their task markers, as the model will see them."""
    clips = list(chain.from_iterable(cache.captions))
    marked = [EXTEND + text for text in clips] + [LAST + text for text in clips]
    edits = [VIDEO_TO_VIDEO + text for text in cache.instructions]
    videos = [wrap_caption(text, fps=FPS) for text in ["", *clips, *marked, *edits]]
    images = [wrap_caption(text, fps=0) for text in ["", *chain.from_iterable(cache.image_captions)]]
    return train_tokenizer(chain(videos, images), vocab_size)


class Models(NamedTuple):
    """What is trained, and the tokenizer that goes with it."""

    flow: StarFlow
    denoiser: CausalDenoiser
    text_encoder: T5EncoderModel
    tokenizer: PreTrainedTokenizerBase


def build_models(config: FlowTrainConfig, tokenizer: PreTrainedTokenizerBase, latent_channels: int) -> Models:
    """Flow, denoiser and text encoder with fresh weights."""
    text = config.text
    flow = StarFlow(
        latent_channels,
        config.flow.shallow_layers,
        config.flow.deep_layers,
        config.flow.shallow_width,
        config.flow.deep_width,
        config.flow.head_dim,
        text.width,
        config.flow.position_length,
        config.flow.soft_clip,
    )
    denoiser = CausalDenoiser(
        latent_channels,
        config.denoiser.width,
        config.denoiser.num_layers,
        config.flow.head_dim,
        text.width,
        config.flow.position_length,
        window=config.denoiser.window,
    )
    return Models(flow, denoiser, tiny_text_encoder(len(tokenizer), text.width, text.num_layers), tokenizer)


def load_init(config: FlowTrainConfig) -> tuple[FlowTrainConfig, VideoCodec, Models]:
    """The model that `config.init` names, its autoencoder frozen, and the config with its settings.

    Raises:
        StarflowError: it does not load. UsageError: it has no denoiser or no text encoder.
    """
    pipeline = StarFlowPipeline.from_pretrained(str(config.init))
    flow, denoiser, text_encoder = pipeline.flow, pipeline.denoiser, pipeline.text_encoder
    if denoiser is None or text_encoder is None:
        raise UsageError(f"{config.init} lacks a denoiser or a text encoder, and all parts are trained together")
    for module in (flow, denoiser, text_encoder):
        module.train()
    pipeline.vae.requires_grad_(False).to(config.loop.device)
    text = replace(config.text, max_tokens=pipeline.config.max_text_tokens)
    config = replace(config, later_frame_scale=pipeline.config.later_frame_scale, text=text)
    return config, pipeline.codec, Models(flow, denoiser, text_encoder, pipeline.tokenizer)


def build_pipeline(
    state: TrainState, codec: VideoCodec, tokenizer: PreTrainedTokenizerBase, config: FlowTrainConfig
) -> StarFlowPipeline:
    """The pipeline of the modules in training."""
    trained: dict[str, Any] = {name: module for name, module in state.modules.items() if name != "grounding_head"}
    pipeline = StarFlowPipeline(
        vae=codec.vae,
        tokenizer=tokenizer,
        **trained,
        noise_std=config.noise_std,
        num_frames=NUM_FRAMES,
        fps=FPS,
        height=FRAME_SIZE,
        width=FRAME_SIZE,
        guidance_scale=config.guidance_scale,
        max_text_tokens=config.text.max_tokens,
        later_frame_scale=config.later_frame_scale,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def train_flow(config: FlowTrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says; returns the folder of the final model, `output`/final, in the `from_pretrained` layout.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as `starflow.train.loop` does, and when there is no autoencoder or
            a task has no clips.
    """
    output, device = Path(config.output), config.loop.device
    _check_tasks(config)
    seed_everything(config.loop.seed)
    if config.init is None:
        codec, models = load_codec(config.vae, config.later_frame_scale, device), None
    else:
        config, codec, models = load_init(config)
    data = config.data
    source = Toyworld(data.seed, paraphrases=data.paraphrases)
    cache = open_latent_cache(Path(data.cache), source, codec, data.num_clips, data.num_edits, data.num_long_clips)
    if models is None:
        models = build_models(config, build_tokenizer(cache, config.text.vocab_size), codec.latent_channels)
    if config.text_encoder is not None:
        tokenizer, text_encoder = load_text_encoder(config.text_encoder)
        given, wanted = text_encoder.config.d_model, models.flow.config["text_width"]
        if given != wanted:
            raise UsageError(f"the text encoder at {config.text_encoder} is {given} wide, and the flow reads {wanted}")
        models = models._replace(tokenizer=tokenizer, text_encoder=text_encoder)
    flow, denoiser, text_encoder, tokenizer = models
    modules: dict[str, nn.Module] = {
        "flow": flow.to(device),
        "denoiser": denoiser.to(device),
        "text_encoder": text_encoder.to(device),
    }
    groups = [
        *parameter_groups("flow", flow, config.optimizer, NOT_MUON),
        *parameter_groups("text_encoder", text_encoder, config.optimizer, T5_EMBEDDINGS),
        *parameter_groups("denoiser", denoiser, config.denoiser_optimizer, NOT_MUON),
    ]
    grounding_head = GroundingHead(flow.config["deep_width"]).to(device) if config.grounding else None
    if grounding_head is not None:
        modules["grounding_head"] = grounding_head
        groups += parameter_groups("grounding_head", grounding_head, config.optimizer, ("heads",))
    state = create_state(modules, groups, config.loop)
    resume_or_start(state, output, resume)
    with atomic_write(output / "config.yaml") as temporary:
        save_config(config, temporary)

    def preview(state: TrainState, writer: SummaryWriter) -> None:
        generator = torch.Generator().manual_seed(0)
        videos = build_pipeline(state, codec, tokenizer, config)(
            list(SAMPLE_PROMPTS), generator=generator, output_type="pt"
        ).frames
        writer.add_image("samples", video_grid(videos), state.step)

    mixture = Mixture(
        cache, config.tasks, config.batch_size, config.short_clips, config.caption_dropout, config.loop.seed
    )
    step = FlowStep(flow, denoiser, text_encoder, tokenizer, mixture, config, grounding_head)
    # On CPUs the fused attention kernels' backward pass is slow for sequences as short as a frame's.
    with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
        train(state, step, config.loop, output, preview)
    with state.averaged_weights(), atomic_write(output / "final") as temporary:
        save_model(build_pipeline(state, codec, tokenizer, config), temporary)
    return output / "final"


def _check_tasks(config: FlowTrainConfig) -> None:
    """Raises UsageError if there are no clips for a task that is asked for."""
    for task, number in (("extend", "num_long_clips"), ("video_to_video", "num_edits")):
        if getattr(config.tasks, task) and not getattr(config.data, number):
            raise UsageError(f"tasks.{task} has no clips to draw from: set data.{number}, or tasks.{task}=0")


def save_model(pipeline: StarFlowPipeline, folder: Path) -> None:
    """Write the `from_pretrained` layout: half the bytes for what is large, the autoencoder as it is."""
    for name in ("flow", "denoiser", "text_encoder"):
        pipeline.components[name].to(torch.bfloat16)
    for name in ("flow", "denoiser", "vae"):
        pipeline.components[name].register_to_config(_name_or_path="")  # names no folder of this machine
    pipeline.save_pretrained(folder)


def video_grid(videos: Tensor) -> Tensor:
    """Videos `(B, F, 3, height, width)` → one picture `(3, B·height, f·width)`: a row each, every fourth frame."""
    return videos[:, ::4].permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
