"""Measuring seconds and memory.

GPU kernels run asynchronously, so every clock here waits for them before it is read.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import VideoPlan, denoised, restored, sampled
from starflow.sampling.solvers import Gaussians, Progress, Solver

T = TypeVar("T")
_END = object()


def seconds_now() -> float:
    """The time of the clock after the GPU, if there is one, has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a function and the seconds that it took."""
    start = seconds_now()
    result = work()
    return result, seconds_now() - start


class Stopwatch:
    """Seconds spent in each of several nested stages.

    Stages are generators that read items from each other. While an inner stage runs, the clock of the outer stage is
    stopped.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stages: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The time spent inside counts for the stage `name`."""
        self._charge()
        self._stages.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stages.pop()

    def switch(self, name: str) -> None:
        """Rename the running stage from here on."""
        self._charge()
        self._stages[-1] = name

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items. The time to compute them counts for the stage `name`."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def _charge(self) -> None:
        now = seconds_now()
        if self._stages:
            self.seconds[self._stages[-1]] += now - self._since
        self._since = now


def timed_videos(
    pipeline: StarFlowPipeline, plan: VideoPlan, frames_at_once: int, watch: Stopwatch
) -> Iterator[Tensor]:
    """Run the stages `deep`, `shallow`, `denoiser` and `vae`, so many latent frames at a time.

    Yields videos `(B, f, 3, height, width)` in [-1, 1]. All latent frames at once are as in `pipeline(...)`, one at a
    time is as in `pipeline.stream`.
    """
    last = plan.sampling.num_frames - 1

    def on_frame(index: int, u: Tensor) -> None:
        if (index + 1) % frames_at_once == 0 or index == last:
            watch.switch("shallow")

    noisy = watch.timed("deep", sampled(pipeline.flow, plan.sampling, frames_at_once, on_frame))
    clean = denoised(pipeline.flow, pipeline.denoiser, pipeline.config.noise_std, noisy, plan.sampling.text)
    return watch.timed("vae", pipeline.codec.stream_decode(restored(watch.timed("denoiser", clean), plan.given)))


class PeakMemory:
    """The largest memory in use since `reset`, in MB: on a GPU, what torch has allocated; on a CPU, of this process.

    Without Linux's /proc, the peak of a process cannot be reset: it is then the peak since the start of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def mb(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


class TimedSolver:
    """A solver that counts its `seconds`."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.seconds = 0.0

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        steps, seconds = timed(lambda: list(self.solver(gaussians, z, v, start, stop, frame_tokens)))
        self.seconds += seconds
        yield from steps


class TimedGaussians:
    """The conditional Gaussians of a block that count the `seconds` of the passes through it."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        self.seconds = 0.0

    def evaluate(self, v: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        result, seconds = timed(lambda: self.gaussians.evaluate(v, start, stop))
        self.seconds += seconds
        return result

    def evaluate_windows(self, v: Tensor, windows: Sequence[range]) -> tuple[Tensor, Tensor]:
        result, seconds = timed(lambda: self.gaussians.evaluate_windows(v, windows))
        self.seconds += seconds
        return result
