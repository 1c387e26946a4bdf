"""The training loop of all models: schedule, clipping, moving averages, log, checkpoints, resuming.

Each model has its own `TrainingStep`. The data and the noise of a step must depend only on (seed, step, micro step) and
on the global random generators. Then a resumed run gives exactly the same result as an uninterrupted run. Micro steps
can run in parallel, one thread each. On CPUs, this is faster than parallel operations.

`create_state`, `optimizer_step` and `TrainState.averaged_weights` also work on modules that are sharded with
`torch.distributed.fsdp.fully_shard`. Checkpoints do not.
"""

import math
import random
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import get_wsd_schedule

from starflow.errors import StarflowError, UsageError
from starflow.train.checkpoint import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from starflow.train.config import LoopConfig, OptimizerConfig
from starflow.train.muon import Muon


class TrainingStep(Protocol):
    """Computes the loss of a micro step and calls backward on ``scale * loss``.

    Returns metrics to log, averaged over the batch. They must include "loss" and "clips", the number of clips. With
    more than one worker, random numbers must come from `micro_generator`: all threads share the global generators.
    """

    def __call__(self, step: int, micro_step: int, scale: float) -> Mapping[str, float]: ...


# Logs samples or scores of the model. It is called with the moving averages as the modules' weights.
Preview = Callable[[TrainState, SummaryWriter], None]


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python. Call it before building the model: its weights depend on them."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries may draw from it)
    random.seed(seed)


def micro_generator(config: LoopConfig, step: int, micro_step: int) -> torch.Generator:
    """A generator of the random numbers of one micro step, seeded by its position in the run."""
    seed = np.random.SeedSequence([config.seed, step, micro_step]).generate_state(1, np.uint64)[0]
    return torch.Generator(config.device).manual_seed(int(seed) >> 1)


def autocast(config: LoopConfig) -> torch.autocast:
    """The context of a micro step's forward pass: bfloat16 if `config.bf16`.

    The cache of bfloat16 weights is off, because the threads of parallel micro steps would share it.
    """
    return torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.bf16, cache_enabled=False)


def parameter_groups(
    name: str, module: nn.Module, config: OptimizerConfig, not_muon: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Parameter groups for `create_state`: `name` for AdamW and, if `config.muon_lr` is not 0, `name`.muon for Muon.

    Each group has its own learning rate and is clipped separately. Muon gets the matrices and convolution kernels,
    except where a component of the parameter's name is in `not_muon`: list first layers, last layers and embeddings.
    """
    adamw: list[nn.Parameter] = []
    muon: list[nn.Parameter] = []
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_hidden = parameter.ndim >= 2 and min(parameter.flatten(1).shape) > 1
        use_muon = config.muon_lr > 0 and is_hidden and not set(not_muon) & set(key.split("."))
        (muon if use_muon else adamw).append(parameter)
    common = {"weight_decay": config.weight_decay, "clip_norm": config.clip_norm}
    betas = (config.beta1, config.beta2)
    groups = [
        {"name": name, "params": adamw, "muon": False, "lr": config.lr, "betas": betas},
        {"name": f"{name}.muon", "params": muon, "muon": True, "lr": config.muon_lr, "betas": (0.95, 0.0)},
    ]
    return [group | common for group in groups if group["params"]]


def create_state(modules: dict[str, nn.Module], groups: list[dict[str, Any]], config: LoopConfig) -> TrainState:
    """The state at step 0.

    Args:
        modules: the modules to train, on their device. Sharded modules must be sharded already.
        groups: from `parameter_groups`, of all modules.
        config: the schedule and the decay of the moving averages.
    """
    optimizer = Muon(groups)
    schedule = get_wsd_schedule(
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_decay_steps=config.decay_steps,
        num_training_steps=config.num_steps,
        min_lr_ratio=config.final_lr_factor,
    )
    # `EMAModel` ignores buffers, but no trained module has any. Its option `foreach` fails on sharded parameters.
    ema = {name: EMAModel(module.parameters(), decay=config.ema_decay) for name, module in modules.items()}
    return TrainState(modules, ema, optimizer, schedule)


def resume_or_start(state: TrainState, run_folder: Path, resume: bool) -> None:
    """Load the newest checkpoint, if there is one and `resume` is true.

    Raises:
        UsageError: the folder has checkpoints and `resume` is false.
        StarflowError: the checkpoint does not load.
    """
    checkpoints = list_checkpoints(run_folder / "checkpoints")
    if checkpoints and not resume:
        raise UsageError(f"{run_folder} already holds a run: continue it with --resume or choose another --output")
    if checkpoints:
        load_checkpoint(state, checkpoints[-1])


def train(
    state: TrainState,
    step_function: TrainingStep,
    config: LoopConfig,
    run_folder: Path,
    preview: Preview | None = None,
) -> None:
    """Train from `state.step` to `config.num_steps`; write checkpoints and TensorBoard logs to `run_folder`.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM. The current step is finished and saved first.
        StarflowError: the loss or a gradient is not finite.
    """
    checkpoints = run_folder / "checkpoints"
    writer = SummaryWriter(str(run_folder / "tensorboard"), purge_step=state.step)
    progress = tqdm(
        total=config.num_steps, initial=state.step, desc="training", unit="step", mininterval=1, dynamic_ncols=True
    )
    log = _Log(writer, progress)
    with writer, progress, _deferred_interrupt() as interrupted:
        while state.step < config.num_steps:
            log.add(optimizer_step(state, step_function, config))
            progress.update()
            done = state.step == config.num_steps
            if state.step % config.log_every == 0 or done:
                log.flush(state)
            if preview is not None and config.preview_every and (state.step % config.preview_every == 0 or done):
                with state.averaged_weights():
                    preview(state, writer)
            if state.step % config.checkpoint_every == 0 or done or interrupted():
                save_checkpoint(state, checkpoints, config.keep_checkpoints)
            if interrupted():
                progress.write(f"interrupted: saved step {state.step} in {checkpoints}; continue with --resume")
                raise KeyboardInterrupt


def optimizer_step(state: TrainState, step_function: TrainingStep, config: LoopConfig) -> dict[str, float]:
    """Update the weights after `config.accumulation` micro steps. Returns mean metrics, and the number of clips."""
    parts = _backward_passes(state.step, step_function, config)
    metrics = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
    metrics["clips"] *= len(parts)
    for group in state.optimizer.param_groups:
        norm = float(nn.utils.clip_grad_norm_(group["params"], group["clip_norm"]))
        metrics[f"gradient_norm/{group['name']}"] = norm
    not_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not_finite:
        raise StarflowError(
            f"training diverged at step {state.step}: {', '.join(not_finite)} not finite: resume from the last "
            "checkpoint with a lower learning rate"
        )
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.schedule.step()
    for name, module in state.modules.items():
        state.ema[name].step(module.parameters())
    state.step += 1
    return metrics


def _backward_passes(step: int, step_function: TrainingStep, config: LoopConfig) -> list[Mapping[str, float]]:
    def run(micro_step: int) -> Mapping[str, float]:
        if config.workers > 1:
            torch.set_num_threads(1)  # for this worker thread
        return step_function(step, micro_step, 1 / config.accumulation)

    if config.workers == 1:
        return [run(micro_step) for micro_step in range(config.accumulation)]
    with ThreadPoolExecutor(config.workers) as pool:
        return list(pool.map(run, range(config.accumulation)))


class _Log:
    """Writes the means of the metrics since the last flush to TensorBoard and to the progress bar."""

    def __init__(self, writer: SummaryWriter, progress: tqdm) -> None:
        self.writer, self.progress = writer, progress
        self.totals: dict[str, float] = {}
        self.count, self.start = 0, time.perf_counter()

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        self.count += 1

    def flush(self, state: TrainState) -> None:
        elapsed = time.perf_counter() - self.start
        clips_per_second = self.totals.pop("clips") / elapsed
        means = {name: total / self.count for name, total in self.totals.items()}
        means["clips_per_second"] = clips_per_second
        for group in state.optimizer.param_groups:
            means[f"lr/{group['name']}"] = group["lr"]
        for name, value in means.items():
            self.writer.add_scalar(name, value, state.step)
        shown = {name: value for name, value in means.items() if "/" not in name and name != "clips_per_second"}
        shown["lr"] = state.optimizer.param_groups[0]["lr"]
        self.progress.set_postfix({k: f"{v:.3g}" for k, v in shown.items()} | {"clips/s": f"{clips_per_second:.1f}"})
        self.totals, self.count, self.start = {}, 0, time.perf_counter()


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Delay SIGINT and SIGTERM until the current step is finished. A second signal acts at once.

    Yields a function that tells whether a signal has come.
    """
    received = False
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def restore_handlers() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def remember(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        restore_handlers()

    for signum in previous:
        signal.signal(signum, remember)
    try:
        yield lambda: received
    finally:
        restore_handlers()
