"""What a training run needs, computed on the meta device: parameters, operations, memory and time.

Nothing is measured. Legend: `B` batch, `T` latent frames, `D` latent channels, `H W` latent rows and columns,
`M` text tokens.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import cast

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.configuration_utils import FrozenDict
from torch import nn
from transformers import T5Config, T5EncoderModel

from starflow.data.tasks import DEFAULT_WEIGHTS
from starflow.encoders.text import tiny_text_encoder
from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.flow.transformer import CausalAttend
from starflow.hardware.architecture import load_architecture
from starflow.hardware.flops import GPUS, TrainingFlops
from starflow.hardware.live_bytes import LiveBytes
from starflow.train.config import FlowTrainConfig
from starflow.train.models import new_networks, pipeline_settings, text_encoder_config
from starflow.train.parallelize import LAYERS, checkpoint_activations
from starflow.weights.components import Component

SECONDS_A_DAY = 86400
GPUS_OF_A_MACHINE = 8  # a group of hsdp, unless the config says otherwise
# Bytes of a parameter: float32 weight, gradient, two moments of AdamW, and moving average.
BYTES_OF_STATE = 20
GATHERED_LAYERS = 3  # in bfloat16: one that computes, the next one, and one whose gradients are being summed


@dataclass(frozen=True)
class TrainingPlan:
    """What a run needs. Memory is in bytes of one GPU, and operations, tokens and clips are of one step of all GPUs."""

    parameters: dict[str, int]
    trained: tuple[str, ...]
    clips: float
    tokens: float
    flops: float
    memory: dict[str, int]
    seconds_per_step: float
    num_steps: int

    @property
    def total_memory(self) -> int:
        return sum(self.memory.values())

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds_per_step

    def days(self, num_clips: float | None = None) -> float:
        """The days for a number of clips; None for all steps of the run."""
        num_steps = self.num_steps if num_clips is None else num_clips / self.clips
        return num_steps * self.seconds_per_step / SECONDS_A_DAY


def make_plan(config: FlowTrainConfig, num_gpus: int, gpu: str, utilisation: float) -> TrainingPlan:
    """The plan of a run on `num_gpus` GPUs that each do `utilisation` of the operations that are possible.

    Args:
        config: with `init`, or with `vae` and the sizes of the networks; files of weights are not read.
        num_gpus: processes of the run.
        gpu: a name in `GPUS`.
        utilisation: share of the peak of the GPU in bfloat16.

    Raises:
        UsageError, StarflowError: a part of the model is not known, or the processes cannot divide the micro steps.
    """
    accumulation = config.loop.accumulation
    if accumulation % num_gpus:
        raise UsageError(f"loop.accumulation is {accumulation}: set it to a multiple of {num_gpus}, the number of GPUs")
    parts, codec, settings = _parts(config)
    flow, denoiser = cast(StarFlow, parts["flow"]), cast(CausalDenoiser, parts["denoiser"])
    shapes = dict(_batches(config, codec, settings))
    text = (settings.max_text_tokens, flow.config["text_width"])
    count = TrainingFlops(flow, denoiser)
    expected = {"clips": 0.0, "tokens": 0.0, "flops": 0.0}
    for shape, share in shapes.items():
        batch, num_frames, _, height, width = shape
        expected["clips"] += share * batch
        expected["tokens"] += share * batch * num_frames * height * width
        expected["flops"] += share * batch * count.count((1, *shape[1:]), (1, *text))
    trained = ("flow", "denoiser", *(["text_encoder"] if config.train_text_encoder else []))
    parameters = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
    memory = _memory(config, parts, parameters, trained, num_gpus)
    memory["activations"] = max(_activations(config, flow, denoiser, shape, (shape[0], *text)) for shape in shapes)
    flops = accumulation * expected["flops"]
    return TrainingPlan(
        parameters,
        trained,
        accumulation * expected["clips"],
        accumulation * expected["tokens"],
        flops,
        memory,
        flops / (num_gpus * GPUS[gpu].flops * utilisation),
        config.loop.num_steps,
    )


def _parts(config: FlowTrainConfig) -> tuple[dict[str, nn.Module], VideoCodec, FrozenDict]:
    """The parts of the model on the meta device, and its settings."""
    if config.init is not None:
        architecture = load_architecture(config.init)
        pipeline = architecture.pipeline()
        if pipeline.denoiser is None:
            raise UsageError(f"{config.init} has no denoiser, which is trained together with the flow")
        return architecture.parts, pipeline.codec, pipeline_settings(config.pipeline, pipeline)
    if config.vae is None:
        raise UsageError("set `vae`, the autoencoder, or `init`, a model to start from")
    settings = pipeline_settings(config.pipeline, None)
    vae_config = Component.parse(config.vae).config()
    vae_class = AutoencoderKLWan if "dim_mult" in vae_config else AutoencoderKL
    with torch.device("meta"):
        vae = vae_class.from_config(vae_config)
        if config.text_encoder is None:
            text_encoder = tiny_text_encoder(config.text.vocab_size, config.text.width, config.text.num_layers)
        else:
            text_encoder = T5EncoderModel(T5Config(**text_encoder_config(config.text_encoder)))
        codec = VideoCodec(vae, settings.later_frame_scale)
        flow, denoiser = new_networks(config, settings, codec, text_encoder.config.d_model)
    parts = {"flow": flow, "denoiser": denoiser, "text_encoder": text_encoder, "vae": vae}
    return parts, codec, settings


def _batches(
    config: FlowTrainConfig, codec: VideoCodec, settings: FrozenDict
) -> Iterator[tuple[tuple[int, int, int, int, int], float]]:
    """The shapes `(B, T, D, H, W)` of the batches of images and of clips, and how frequent they are.

    The tasks other than images count as text to video.
    """
    shape = codec.latent_shape(config.batch_size, settings.num_frames, settings.height, settings.width)
    length = shape[1]
    given = {task: weight for task, weight in asdict(config.tasks).items() if weight is not None}
    weights = DEFAULT_WEIGHTS | given
    images = 1.0 if length == 1 else weights["image"] / sum(weights.values())
    if images:
        num_images = max(config.batch_size, config.batch_size * length // 2)
        yield (num_images, 1, *shape[2:]), images
    if images < 1:
        yield shape, 1 - images


def _memory(
    config: FlowTrainConfig,
    parts: Mapping[str, nn.Module],
    parameters: Mapping[str, int],
    trained: tuple[str, ...],
    num_gpus: int,
) -> dict[str, int]:
    """Bytes of what a GPU holds between two steps, and of the weights that it gathers in one."""
    parallel = config.parallel
    shards = {"ddp": 1, "fsdp": num_gpus, "hsdp": parallel.group_size or GPUS_OF_A_MACHINE}[parallel.strategy]
    num_trained = sum(parameters[name] for name in trained)
    layers = [part for name in trained for part in parts[name].modules() if isinstance(part, LAYERS)]
    largest = max(sum(each.numel() for each in layer.parameters()) for layer in layers)
    memory = {
        "weights, gradients, optimizer and averages": BYTES_OF_STATE * num_trained // shards,
        "frozen parts": sum(4 * number for name, number in parameters.items() if name not in trained),
        "gathered layers": GATHERED_LAYERS * largest * (2 if config.loop.bf16 else 4),
    }
    if config.loop.accumulation > num_gpus:
        memory["gradients added up before they are shared"] = 4 * num_trained
    return memory


def _activations(
    config: FlowTrainConfig,
    flow: StarFlow,
    denoiser: CausalDenoiser,
    latents: tuple[int, ...],
    text: tuple[int, ...],
) -> int:
    """Bytes of what the forward pass of a micro step keeps, and of the passes of a layer of the deep block."""
    flow, denoiser = deepcopy(flow), deepcopy(denoiser)
    x, encodings = torch.empty(latents, device="meta", requires_grad=True), torch.empty(text, device="meta")
    if config.loop.bf16:
        for model in (flow, denoiser):
            nn.Module.to(model, torch.bfloat16)  # the `to` of diffusers warns about casts
    grid = (latents[1], latents[3], latents[4])
    rotation = flow.rotation(flow.num_blocks - 1, grid, text[1])
    width, dtype = flow.config["deep_width"], flow.deep.proj_in.weight.dtype
    h = torch.empty(text[0], len(rotation), width, device="meta", dtype=dtype, requires_grad=True)
    with LiveBytes() as one_layer:
        flow.deep.transformer.layers[0](h, rotation, CausalAttend(), 0).sum().backward()
    kept = []
    for model in (flow, denoiser):
        if config.parallel.activation_checkpointing != "none":
            layers = [part for part in model.modules() if isinstance(part, LAYERS)]
            checkpoint_activations(layers, config.parallel.activation_checkpointing)
        with LiveBytes() as live:
            outputs = model(x, encodings)
            kept.append(live.now)
            del outputs
    return max(kept) + one_layer.peak
