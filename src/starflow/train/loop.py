"""The training loop of all models: micro steps, clipping, moving averages, log, checkpoints, resuming.

Each model has its own `TrainingStep`. A step is divided into micro steps, and several processes divide these among
themselves. The data and the noise of a micro step must depend only on (seed, step, micro step) and on the global random
generators, which are seeded with these before each micro step. So a run has the same batches in any number of
processes, and a resumed run gives exactly the same result as an uninterrupted run.

Without torchrun, micro steps can also run in parallel in one process, one thread each. On CPUs, this is faster than
parallel operations.
"""

import math
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from starflow.errors import StarflowError, UsageError
from starflow.train.checkpoint import Checkpoints, list_checkpoints, load_checkpoint
from starflow.train.config import LoopConfig
from starflow.train.log import SUMMED, Log
from starflow.train.parallelize import set_gradient_sync
from starflow.train.processes import gather, is_main, num_processes, rank, was_restarted
from starflow.train.state import TrainState, trained_parameters, whole


class TrainingStep(Protocol):
    """Computes the loss of a micro step and calls backward on ``scale * loss``.

    Returns metrics to log, averaged over the batch. They must include "loss" and "clips", the number of clips. "tokens"
    and "flops" are added up like clips, and "data_seconds" is the time that the step has waited for its batch. With
    more than one worker, random numbers must come from `micro_generator`: all threads share the global generators.
    """

    def __call__(self, step: int, micro_step: int, scale: float) -> Mapping[str, float]: ...


# Logs samples or scores of the model at a step. It is called in process 0 with the modules that have the moving
# averages as their weights.
Preview = Callable[[Mapping[str, nn.Module], SummaryWriter, int], None]


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


def resume_or_start(state: TrainState, run_folder: Path, resume: bool) -> None:
    """Load the newest complete checkpoint, if there is one and `resume` is true or torchrun has restarted the run.

    Raises:
        UsageError: the folder has checkpoints and `resume` is false.
        StarflowError: the checkpoint does not load.
    """
    checkpoints = list_checkpoints(run_folder / "checkpoints")
    if checkpoints and not (resume or was_restarted()):
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
    """Train from `state.step` to `config.num_steps`; write checkpoints and logs to `run_folder`.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM. The current step is finished and saved first.
        UsageError: the config does not fit the number of processes.
        StarflowError: the loss or a gradient is not finite, or a checkpoint cannot be written.
    """
    check_division(config)
    checkpoints = Checkpoints(run_folder / "checkpoints", config.keep_checkpoints)
    with _opened_log(run_folder, state, config) as log, _deferred_interrupt() as interrupted:
        while state.step < config.num_steps:
            metrics = optimizer_step(state, step_function, config)
            stop = any(gather(interrupted()))
            done = state.step == config.num_steps
            if log is not None:
                log.add(metrics)
                if state.step % config.log_every == 0 or done:
                    log.flush(state)
            if preview is not None and config.preview_every and (state.step % config.preview_every == 0 or done):
                averaged = state.averaged()
                if log is not None:
                    preview(averaged, log.writer, state.step)
            if state.step % config.checkpoint_every == 0 or done or stop:
                checkpoints.save(state)
            if stop:
                checkpoints.wait()
                tqdm.write(f"interrupted: saved step {state.step} in {checkpoints.folder}; continue with --resume")
                raise KeyboardInterrupt
        checkpoints.wait()


def check_division(config: LoopConfig) -> None:
    """Raise UsageError unless the micro steps can be divided among the processes."""
    if config.accumulation % num_processes():
        raise UsageError(
            f"{num_processes()} processes divide the micro steps of a step among themselves: set loop.accumulation, "
            f"which is {config.accumulation}, to a multiple of {num_processes()}"
        )
    if num_processes() > 1 and config.workers > 1:
        raise UsageError("loop.workers is for a single process: set loop.workers=1")


def optimizer_step(state: TrainState, step_function: TrainingStep, config: LoopConfig) -> dict[str, float]:
    """Update the weights after `config.accumulation` micro steps. Returns the metrics of the step.

    The gradients of a group whose norm is larger than its `clip_norm` are scaled down. If a norm is larger than
    `skip_norm` after warm-up, no weight changes, and "skipped" is 1.
    """
    metrics = mean_metrics(_backward_passes(state, step_function, config))
    norms = {}
    for group in state.optimizer.param_groups:
        norms[group["name"]] = float(whole(nn.utils.clip_grad_norm_(group["params"], group["clip_norm"])))
    metrics |= {f"gradient_norm/{name}": norm for name, norm in norms.items()}
    not_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not_finite:
        raise StarflowError(
            f"training diverged at step {state.step}: {', '.join(not_finite)} not finite: resume from the last "
            "checkpoint with a lower learning rate"
        )
    is_spike = any(norms[group["name"]] > group["skip_norm"] for group in state.optimizer.param_groups)
    skip = is_spike and state.step >= config.warmup_steps
    if not skip:
        state.optimizer.step()
    state.optimizer.zero_grad()
    state.schedule.step()
    for name, module in state.modules.items():
        state.ema[name].step(trained_parameters(module))
    state.step += 1
    return metrics | {"skipped": float(skip)}


def mean_metrics(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of a step from those of its micro steps: means over the micro steps that have them, and some sums."""
    metrics = {}
    for name in dict.fromkeys(chain(*parts)):
        values = [part[name] for part in parts if name in part]
        metrics[name] = sum(values) / (1 if name in SUMMED else len(values))
    return metrics


def _backward_passes(state: TrainState, step_function: TrainingStep, config: LoopConfig) -> list[Mapping[str, float]]:
    """Run the micro steps of this process. Returns the metrics of all micro steps of all processes, in their order."""
    mine = range(rank(), config.accumulation, num_processes())
    if config.workers > 1:
        with ThreadPoolExecutor(config.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(lambda micro_step: step_function(state.step, micro_step, 1 / len(mine)), mine))
    parts = []
    for micro_step in mine:
        set_gradient_sync(state.modules.values(), micro_step == mine[-1])
        seed_everything(int(np.random.SeedSequence([config.seed, state.step, micro_step]).generate_state(1)[0]))
        # The gradients of the processes are averaged.
        parts.append(step_function(state.step, micro_step, 1 / len(mine)))
    return [part for parts_of_one_round in zip(*gather(parts), strict=True) for part in parts_of_one_round]


@contextmanager
def _opened_log(run_folder: Path, state: TrainState, config: LoopConfig) -> Iterator[Log | None]:
    """The log in process 0, and None in the others."""
    if not is_main():
        yield None
        return
    log = Log(run_folder, state, config)
    try:
        yield log
    finally:
        log.close()


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
