"""The log of a run: TensorBoard, Weights & Biases if the config names a project, and a progress bar or lines."""

import resource
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from starflow.errors import UsageError
from starflow.hardware.flops import peak_flops
from starflow.media.frames import Frames
from starflow.media.writing import write_video
from starflow.train.config import LoopConfig
from starflow.train.processes import num_processes
from starflow.train.state import TrainState

GIB = 2**30
SECONDS_BETWEEN_LINES = 30
SUMMED = ("clips", "tokens", "flops")  # metrics of a micro step that are added up over a step; others are averaged


class Log:
    """Writes the means of the metrics since the last flush. Only process 0 has one.

    Progress is a bar on a terminal, and otherwise a line every half a minute, at each flush or later.
    """

    def __init__(self, run_folder: Path, state: TrainState, config: LoopConfig) -> None:
        """Raises UsageError if the config names a project on Weights & Biases, but its package is not installed."""
        self.run_folder, self.config = run_folder, config
        if config.wandb is not None:
            _start_wandb(config.wandb, run_folder)
        self.writer = SummaryWriter(str(run_folder / "tensorboard"), purge_step=state.step + 1)
        self.progress = tqdm(
            total=config.num_steps,
            initial=state.step,
            desc="training",
            unit="step",
            mininterval=1,
            dynamic_ncols=True,
            disable=None,  # off a terminal
        )
        self.first_step, self.begun, self.next_line = state.step, time.perf_counter(), 0.0
        self.peak_flops = peak_flops(torch.device(config.device))
        self._clear()

    def _clear(self) -> None:
        self.totals: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.start = time.perf_counter()

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count the metrics of a step."""
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.progress.update()

    def flush(self, state: TrainState) -> None:
        """Write the means of the steps since the last flush, and their speed."""
        seconds = time.perf_counter() - self.start
        sums = {name: self.totals.pop(name) for name in SUMMED if name in self.totals}
        means = {name: total / self.counts[name] for name, total in self.totals.items()}
        for group in state.optimizer.param_groups:
            means[f"lr/{group['name']}"] = group["lr"]
        speed = {f"speed/{name}_per_second": total / seconds for name, total in sums.items() if name != "flops"}
        if "data_seconds" in means:
            speed["speed/data_wait"] = means.pop("data_seconds") * self.counts["data_seconds"] / seconds
        if "flops" in sums and self.peak_flops is not None:
            speed["speed/model_flops_utilisation"] = sums["flops"] / seconds / self.peak_flops / num_processes()
        speed["memory_gib"] = peak_memory(torch.device(self.config.device)) / GIB
        for name, value in (means | speed).items():
            self.writer.add_scalar(name, value, state.step)
        shown = {name: f"{value:.3g}" for name, value in means.items() if "/" not in name}
        shown["lr"] = f"{state.optimizer.param_groups[0]['lr']:.3g}"
        shown["clips/s"] = f"{sums['clips'] / seconds:.1f}"
        self.progress.set_postfix(shown)
        if self.progress.disable:
            self._write_line(state.step, shown)
        self._clear()

    def _write_line(self, step: int, shown: Mapping[str, str]) -> None:
        """Write the step, the time left and the metrics, unless there was a line just now."""
        now, left = time.perf_counter(), self.config.num_steps - step
        if now < self.next_line and left > 0:
            return
        self.next_line = now + SECONDS_BETWEEN_LINES
        seconds = (now - self.begun) / max(step - self.first_step, 1) * left
        metrics = ", ".join(f"{name}={value}" for name, value in shown.items())
        print(
            f"step {step} of {self.config.num_steps}, {tqdm.format_interval(seconds)} left: {metrics}", file=sys.stderr
        )

    def close(self) -> None:
        self.writer.close()
        self.progress.close()


def add_video(writer: SummaryWriter, path: Path, frames: Frames, fps: float, step: int) -> None:
    """Write a clip (F, height, width, 3) as a GIF, and log it as an animated picture with the name of its folder."""
    write_video(path, frames, fps)
    # TensorBoard shows GIFs as they are. `SummaryWriter.add_video` needs another package to make the same bytes.
    image = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3)
    image.encoded_image_string = path.read_bytes()
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=path.parent.name, image=image)]), step)


def peak_memory(device: torch.device) -> int:
    """The largest number of bytes that this process has used: on the GPU, or else in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _start_wandb(project: str, run_folder: Path) -> None:
    try:
        wandb: Any = import_module("wandb")
    except ImportError:
        raise UsageError("loop.wandb needs the package wandb: install it, or leave loop.wandb out") from None
    wandb.init(project=project, name=run_folder.name, dir=run_folder, sync_tensorboard=True)
