"""The training loop, the same for every model: schedule, clipping, moving average, log, checkpoints, resume.

What is trained comes from outside as a `TrainingStep`, one readable function per model. The data and the noise of a
step must follow from (seed, step, micro step) and the random generators alone; then a resumed run continues exactly.
Micro steps may run at once on one core each: on CPUs that beats sharing each small operation among the cores.
Distribution wraps from outside: give `train` modules already sharded, and a step that works on its share of the batch.
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
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from starflow.errors import StarflowError, UsageError
from starflow.train import ema
from starflow.train.checkpoint import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from starflow.train.config import LoopConfig, OptimizerConfig
from starflow.train.muon import Muon


class TrainingStep(Protocol):
    """Adds the gradient of ``scale`` times the loss to the parameters (it calls backward itself).

    Returns what to log, "loss" and "clips" (how many there were) among it; means over the batch. If `workers` is more
    than 1, it draws from `micro_generator` and not from the global generators, which the threads share.
    """

    def __call__(self, step: int, micro_step: int, scale: float) -> Mapping[str, float]: ...


SampleHook = Callable[[TrainState, SummaryWriter], None]


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and python; before the model is built, as its weights come from them."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries may draw from it)
    random.seed(seed)


def micro_generator(config: LoopConfig, step: int, micro_step: int) -> torch.Generator:
    """The random numbers of one micro step, a function of its place in the run alone."""
    seed = np.random.SeedSequence([config.seed, step, micro_step]).generate_state(1, np.uint64)[0]
    return torch.Generator(config.device).manual_seed(int(seed) >> 1)


def autocast(config: LoopConfig) -> torch.autocast:
    """The context of a micro step's forward pass, bfloat16 if the config says so.

    It keeps no cache of weights in bfloat16, which would be shared with the micro steps on other threads.
    """
    return torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.bf16, cache_enabled=False)


def parameter_groups(
    name: str, module: nn.Module, config: OptimizerConfig, not_muon: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Groups for the optimizer, with their own learning rates and clipping: `name`, and with Muon also `name`.muon.

    Muon takes the parameters of two and more dimensions, except those whose name holds a part named in `not_muon`:
    first and last layers, embeddings.
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
        {"name": name, "params": adamw, "muon": False, "peak_lr": config.lr, "betas": betas},
        {"name": f"{name}.muon", "params": muon, "muon": True, "peak_lr": config.muon_lr, "betas": (0.95, 0.0)},
    ]
    return [group | common | {"lr": group["peak_lr"]} for group in groups if group["params"]]


def create_state(modules: dict[str, nn.Module], groups: list[dict[str, Any]]) -> TrainState:
    """The state at step 0."""
    return TrainState(modules, ema.shadow_copy(modules), Muon(groups))


def lr_factor(step: int, config: LoopConfig) -> float:
    """Learning rate over its peak: linear warm-up, then constant, then a cosine over the last `decay_steps`."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = (step - (config.num_steps - config.decay_steps)) / max(1, config.decay_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return warmup * (config.final_lr_factor + (1 - config.final_lr_factor) * cosine)


def resume_or_start(state: TrainState, run_folder: Path, resume: bool) -> None:
    """Load the newest checkpoint if asked to; refuse to start over a run that has some.

    Raises:
        UsageError: the folder already holds checkpoints and `resume` is false.
        StarflowError: the checkpoint does not load.
    """
    checkpoints = list_checkpoints(run_folder / "checkpoints")
    if checkpoints and not resume:
        raise UsageError(f"{run_folder} already holds a run: continue it with --resume, or choose another --output")
    if checkpoints:
        load_checkpoint(state, checkpoints[-1])


def train(
    state: TrainState,
    step_function: TrainingStep,
    config: LoopConfig,
    run_folder: Path,
    sample: SampleHook | None = None,
) -> None:
    """Run from `state.step` to `config.num_steps`, leaving checkpoints and TensorBoard logs in `run_folder`.

    Raises:
        KeyboardInterrupt: SIGINT came; the step was finished and a checkpoint saved first.
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
            if sample is not None and (state.step % config.sample_every == 0 or done):
                sample(state, writer)
            if state.step % config.checkpoint_every == 0 or done or interrupted():
                save_checkpoint(state, checkpoints, config.keep_checkpoints)
            if interrupted():
                progress.write(f"interrupted: saved step {state.step} in {checkpoints}; continue with --resume")
                raise KeyboardInterrupt


def optimizer_step(state: TrainState, step_function: TrainingStep, config: LoopConfig) -> dict[str, float]:
    """One update of the weights from `config.accumulation` backward passes; returns the metrics, clips summed."""
    parts = _backward_passes(state.step, step_function, config)
    metrics = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
    metrics["clips"] *= len(parts)
    factor = lr_factor(state.step, config)
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
        norm = float(nn.utils.clip_grad_norm_(group["params"], group["clip_norm"]))
        metrics[f"gradient_norm/{group['name']}"] = norm
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise StarflowError(
            f"training diverged at step {state.step}: {', '.join(broken)} not finite; resume from the last checkpoint "
            "with a lower learning rate"
        )
    state.optimizer.step()
    state.optimizer.zero_grad()
    ema.update(state.ema, state.modules, config.ema_decay, state.step)
    state.step += 1
    return metrics


def _backward_passes(step: int, step_function: TrainingStep, config: LoopConfig) -> list[Mapping[str, float]]:
    def run(micro_step: int) -> Mapping[str, float]:
        if config.workers > 1:
            torch.set_num_threads(1)  # of this worker thread
        return step_function(step, micro_step, 1 / config.accumulation)

    if config.workers == 1:
        return [run(micro_step) for micro_step in range(config.accumulation)]
    with ThreadPoolExecutor(config.workers) as pool:
        return list(pool.map(run, range(config.accumulation)))


class _Log:
    """Means of the metrics since the last flush, to TensorBoard and to the progress bar."""

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
    """Hold SIGINT back, so that a step is never cut in half; a second one interrupts at once."""
    received = False

    def remember(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGINT, previous)
