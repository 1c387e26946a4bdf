"""Training a LoRA adapter of a flow. The model is frozen; only the adapter has moving averages, and is in checkpoints.

The loss is that of the flow, as in `starflow.train.flow`. The denoiser and the text encoder do not change.
Source: LoRA, arXiv 2106.09685.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import cast

from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from starflow.config import save_config
from starflow.data.clip import action_space
from starflow.data.sources import build_source
from starflow.errors import UsageError
from starflow.flow.model import StarFlow
from starflow.flow.transformer import MATRICES
from starflow.media.files import atomic_write
from starflow.pipeline.lora import require_peft
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import LoraConfig, LoraTrainConfig
from starflow.train.flow import FlowStep, fast_attention, preview_prompts, with_modules, write_preview
from starflow.train.flow_data import open_format, open_mixture, open_texts
from starflow.train.loop import resume_or_start, seed_everything, train
from starflow.train.models import require_actions
from starflow.train.processes import is_main, training_processes
from starflow.train.state import Trained, create_state, trained_parameters

ADAPTER = "default"  # its name while it is trained


def train_lora(config: LoraTrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says, in all processes that torchrun has started.

    Returns the folder of the adapter, `output`/final, for `load_lora_weights`.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as in `starflow.train.loop`, and if the model does not load, a key
            has a wrong value, or there are no clips to train on.
    """
    require_peft()
    check_config(config)
    with training_processes(config.loop.device):
        return _train_lora(config, resume)


def _train_lora(config: LoraTrainConfig, resume: bool) -> Path:
    output = Path(config.output)
    seed_everything(config.loop.seed)
    source = build_source(config.data)
    opened = open_format(config)
    pipeline = opened.init
    assert pipeline is not None
    require_actions(pipeline.flow, action_space(source))
    mixture = open_mixture(config, source, opened)
    texts = open_texts(config, mixture, pipeline.config, pipeline.tokenizer, pipeline.text_encoder)
    add_adapter(pipeline.flow, config)
    step = FlowStep(pipeline, mixture, config.loop, texts=texts)
    state = create_state({"flow": Trained(pipeline.flow, config.optimizer)}, config.loop, config.parallel)
    resume_or_start(state, output, resume)
    if is_main():
        with atomic_write(output / "config.yaml") as temporary:
            save_config(config, temporary)
    prompts = preview_prompts(mixture.cache)

    def preview(modules: Mapping[str, nn.Module], writer: SummaryWriter, step: int) -> None:
        write_preview(with_modules(pipeline, modules), prompts, writer, output / "previews", step)

    pipeline.flow.train()  # for dropout
    with fast_attention(config.loop.device):
        train(state, step, config.loop, output, preview)
    averaged = state.averaged()
    if is_main():
        with atomic_write(output / "final") as temporary:
            save_adapter(cast(StarFlow, averaged["flow"]), temporary)
            save_config(config, temporary / "config.yaml")
    options = f"--model {quote(config.init)} --lora {quote(str(output / 'final'))}"
    tqdm.write(f"try it: starflow generate {quote(prompts[0])} {options} -o video.mp4")
    return output / "final"


def check_config(config: LoraTrainConfig) -> None:
    """Raise UsageError for a value that a key of the config cannot have."""
    lora = config.lora
    unknown = [name for name in lora.targets if name not in MATRICES]
    if unknown or not lora.targets:
        raise UsageError(f"lora.targets must be some of {', '.join(MATRICES)}, not {lora.targets}")
    if lora.rank < 1 or lora.alpha < 1 or not 0 <= lora.dropout < 1:
        raise UsageError("lora.rank and lora.alpha must be at least 1, and lora.dropout at least 0 and less than 1")
    if lora.dropout and config.loop.workers > 1:
        raise UsageError("lora.dropout needs loop.workers=1: several workers share one generator of random numbers")
    if config.base_precision == "int8" and config.parallel.strategy != "ddp":
        raise UsageError("weights in int8 cannot be divided among processes: set parallel.strategy=ddp")


def add_adapter(flow: StarFlow, config: LoraTrainConfig) -> None:
    """Add a new adapter to a frozen flow. Its parameters are float32, and the only ones that are trained."""
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
    for parameter in trained_parameters(flow):
        parameter.data = parameter.data.float()


def _targets(flow: StarFlow, lora: LoraConfig) -> str:
    """The names of the adapted layers, as a regular expression."""
    first = 0 if lora.shallow_blocks else flow.num_blocks - 1
    blocks = "|".join(str(index) for index in range(first, flow.num_blocks))
    return rf"blocks\.({blocks})\.transformer\.layers\.\d+\.({'|'.join(map(re.escape, lora.targets))})"


def save_adapter(flow: StarFlow, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, in the format of diffusers, and PEFT's `adapter_config.json`."""
    import peft

    config = flow.peft_config[ADAPTER]
    tensors = peft.get_peft_model_state_dict(flow, adapter_name=ADAPTER, save_embedding_layers=False)
    StarFlowPipeline.save_lora_weights(folder, tensors, config.to_dict())
    config.save_pretrained(folder)
