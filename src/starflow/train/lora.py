"""Training a LoRA adapter of a flow. The model is frozen; only the adapter is in memory twice, and in checkpoints.

The loss is that of the flow, as in `starflow.train.flow`. The denoiser and the text encoder do not change.
Source: LoRA, arXiv 2106.09685.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from starflow.config import save_config
from starflow.data.clip import action_space
from starflow.data.encoding import open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.data.latents import LatentCache
from starflow.data.sources import build_source
from starflow.data.tasks import Mixture
from starflow.errors import UsageError
from starflow.flow.model import StarFlow
from starflow.flow.transformer import MATRICES, Layer
from starflow.hardware.quantization import quantization_config
from starflow.hardware.ranks import Rank
from starflow.media.files import atomic_write
from starflow.pipeline.lora import require_peft
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import LoraConfig, LoraTrainConfig
from starflow.train.flow import FlowStep, describe_tasks, fast_attention, preview_prompts, write_preview
from starflow.train.loop import resume_or_start, seed_everything, train
from starflow.train.models import NEEDED, require_actions
from starflow.train.parallelize import checkpoint_activations
from starflow.train.state import Trained, TrainState, create_state

BASE_PRECISIONS = ("float32", "bfloat16", "int8")
ADAPTER = "default"  # its name while it is trained


def train_lora(config: LoraTrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says. Returns the folder of the adapter, `output`/final, for `load_lora_weights`.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as in `starflow.train.loop`, and if the model does not load, a key
            has a wrong value, or there are no clips to train on.
    """
    require_peft()
    check_config(config)
    output = Path(config.output)
    seed_everything(config.loop.seed)
    source = build_source(config.data)
    pipeline = load_base(config)
    require_actions(pipeline.flow, action_space(source))
    settings = pipeline.config
    clip_format = ClipFormat(settings.num_frames, settings.fps, settings.height, settings.width)
    cache = open_latent_cache(Path(config.latents or output / "latents"), source, pipeline.codec, clip_format)
    mixture = Mixture(
        cache, config.tasks, config.batch_size, caption_dropout=config.caption_dropout, seed=config.loop.seed
    )
    tqdm.write(describe_tasks(mixture))
    adapter = add_adapter(pipeline.flow, config)
    state = create_state({"lora": Trained(adapter, config.optimizer)}, config.loop)
    resume_or_start(state, output, resume)
    with atomic_write(output / "config.yaml") as temporary:
        save_config(config, temporary)
    _train(pipeline, mixture, cache, state, config)
    with _weights(adapter, state.averaged()["lora"]), atomic_write(output / "final") as temporary:
        save_adapter(pipeline.flow, temporary)
        save_config(config, temporary / "config.yaml")
    return output / "final"


def check_config(config: LoraTrainConfig) -> None:
    """Raise UsageError for a value that a key of the config cannot have, or for several processes."""
    if Rank.of_this_process().size > 1:
        raise UsageError("a LoRA is trained by a single process: start it without torchrun")
    lora = config.lora
    if config.base_precision not in BASE_PRECISIONS:
        raise UsageError(f"unknown base_precision {config.base_precision!r}: choose {', '.join(BASE_PRECISIONS)}")
    unknown = [name for name in lora.targets if name not in MATRICES]
    if unknown or not lora.targets:
        raise UsageError(f"lora.targets must be some of {', '.join(MATRICES)}, not {lora.targets}")
    if lora.rank < 1 or lora.alpha < 1 or not 0 <= lora.dropout < 1:
        raise UsageError("lora.rank and lora.alpha must be at least 1, and lora.dropout at least 0 and less than 1")
    if lora.dropout and config.loop.workers > 1:
        raise UsageError("lora.dropout needs loop.workers=1: several workers share one generator of random numbers")


def load_base(config: LoraTrainConfig) -> StarFlowPipeline:
    """The frozen model on its device, with the size and the rate of the clips in training as its settings.

    The autoencoder is in float32, because the latents are cached for other runs too.
    Raises StarflowError if the model does not load.
    """
    precision, device = config.base_precision, config.loop.device
    options: dict[str, Any] = {}
    if precision == "int8":
        options["quantization_config"] = quantization_config(precision, device)
    default = torch.float32 if precision == "float32" else torch.bfloat16
    dtype = {"vae": torch.float32, "default": default}
    pipeline = StarFlowPipeline.from_pretrained(config.init, dtype=dtype, **options)
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
    given = {name: value for name in NEEDED if (value := getattr(config, name)) is not None}
    pipeline.register_to_config(**given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def add_adapter(flow: StarFlow, config: LoraTrainConfig) -> nn.ParameterList:
    """Add a new adapter to a frozen flow, and return its parameters, which are float32."""
    import peft

    lora = config.lora
    flow.add_adapter(
        peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=_targets(flow, lora)
        ),
        ADAPTER,
    )
    if not Path(config.init).is_dir():  # a local path means nothing to others
        flow.peft_config[ADAPTER].base_model_name_or_path = config.init
    if config.activation_checkpointing:
        checkpoint_activations([layer for layer in flow.modules() if isinstance(layer, Layer)], "full")
    trained = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    return nn.ParameterList(trained)


def _targets(flow: StarFlow, lora: LoraConfig) -> str:
    """The names of the adapted layers, as a regular expression."""
    first = 0 if lora.shallow_blocks else flow.num_blocks - 1
    blocks = "|".join(str(index) for index in range(first, flow.num_blocks))
    return rf"blocks\.({blocks})\.transformer\.layers\.\d+\.({'|'.join(map(re.escape, lora.targets))})"


def _train(
    pipeline: StarFlowPipeline, mixture: Mixture, cache: LatentCache, state: TrainState, config: LoraTrainConfig
) -> None:
    prompts = preview_prompts(cache)

    def preview(modules: Mapping[str, nn.Module], writer: SummaryWriter, step: int) -> None:
        pipeline.flow.eval()
        with _weights(state.modules["lora"], modules["lora"]):
            write_preview(pipeline, prompts, writer, Path(config.output) / "previews", step)
        pipeline.flow.train()

    pipeline.flow.train()  # for dropout
    with fast_attention(config.loop.device):
        train(state, FlowStep(pipeline, mixture, config.loop), config.loop, Path(config.output), preview)
    options = f"--model {quote(config.init)} --lora {quote(str(Path(config.output) / 'final'))}"
    tqdm.write(f"try it: starflow generate {quote(prompts[0])} {options} -o video.mp4")


@contextmanager
def _weights(adapter: nn.Module, other: nn.Module) -> Iterator[None]:
    """A context in which the adapter has the weights of another."""
    pairs = [(mine, mine.data, its.data) for mine, its in zip(adapter.parameters(), other.parameters(), strict=True)]
    for parameter, _, given in pairs:
        parameter.data = given
    try:
        yield
    finally:
        for parameter, own, _ in pairs:
            parameter.data = own


def save_adapter(flow: StarFlow, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, in the format of diffusers, and PEFT's `adapter_config.json`."""
    import peft

    config = flow.peft_config[ADAPTER]
    tensors = peft.get_peft_model_state_dict(flow, adapter_name=ADAPTER, save_embedding_layers=False)
    StarFlowPipeline.save_lora_weights(folder, tensors, config.to_dict())
    config.save_pretrained(folder)
