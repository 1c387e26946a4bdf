"""What the samplers cost and how exact they are: on the same weights and noise, and by turns.

Legend: `B` prompts, `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from starflow.benchmark.clocks import PeakMemory, Stopwatch
from starflow.benchmark.published import PublishedJacobi
from starflow.media.video import write_video
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import Plan, denoised, restored, sampled
from starflow.sampling.sampler import SamplingReport, deep_frames, invert_shallow
from starflow.sampling.solvers import Gaussians, Progress, Solution, Solver, Solvers, sequential

PROMPTS = (
    "a red circle moves right",
    "a large blue square bounces",
    "a small green triangle orbits",
    "a yellow circle grows",
)
STAGES = ("text", "deep", "shallow", "denoiser", "vae", "writing")


@dataclass(frozen=True)
class Row:
    """One sampler on clips of one length. Seconds are medians over the repeats.

    `latency_s` is that of the sampler, from noise to latents, of which `stages_s` has the parts, and the rest that a
    clip takes; `time_to_first_frame_s` counts from the prompt to the first picture, when frames are streamed one by
    one. `max_error` is the largest difference of latents to those of sequential sampling, `max_residual` the largest
    residual of the deep block, measured on what came out. `sweeps` and `evaluations_per_token` are of the deep block;
    `sweep_overhead` is the time of its sweeps over that of the passes through the block in them.
    """

    sampler: str
    num_frames: int
    batch_size: int
    latency_s: float
    speedup_over_sequential: float
    speedup_over_published: float
    max_error: float
    max_residual: float
    sweeps: int
    evaluations_per_token: float
    sweep_overhead: float
    peak_memory_mb: float
    time_to_first_frame_s: float
    clip_s: float
    stages_s: dict[str, float]
    seconds_of_video: float
    repeats: int
    machine: str


@dataclass
class Accuracy:
    """Latents `(B, T, D, H, W)` at the noise level of training, and what the deep block's solver did."""

    latents: Tensor
    deep: Solution
    max_residual: float
    sweep_overhead: float


def samplers(pipeline: StarFlowPipeline) -> dict[str, Solvers]:
    """What is compared, by name."""
    return {
        "sequential": Solvers(sequential, sequential),
        "published-32": Solvers(PublishedJacobi(32, 128), PublishedJacobi(32, 128)),
        "published-64": Solvers(PublishedJacobi(64, 512), PublishedJacobi(64, 512)),
        "sliding": pipeline.solvers("sliding"),
    }


def measure(
    pipeline: StarFlowPipeline,
    num_frames: int,
    batch_size: int,
    repeats: int,
    seed: int,
    machine: str,
    say: Callable[[str], None],
) -> list[Row]:
    """The rows of all samplers on `batch_size` clips of `num_frames`; `say` is told what is being done."""
    compared = samplers(pipeline)
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(batch_size)]
    where = f"{num_frames} frames, batch {batch_size}"
    accuracy = {}
    for name, solvers in compared.items():
        say(f"{where}: error of {name}")
        accuracy[name] = check(pipeline, _plan(pipeline, prompts, num_frames, seed, solvers))
    clips: dict[str, list[dict[str, float]]] = {name: [] for name in compared}
    firsts: dict[str, list[float]] = {name: [] for name in compared}
    peaks: dict[str, list[float]] = {name: [] for name in compared}
    for repeat in range(repeats):
        for name, solvers in compared.items():
            say(f"{where}: repeat {repeat + 1} of {repeats}, {name}")
            memory = PeakMemory(pipeline.device)
            memory.reset()
            clips[name].append(make_clips(pipeline, prompts, num_frames, seed, solvers))
            peaks[name].append(memory.mb())
            firsts[name].append(first_frame(pipeline, prompts, num_frames, seed, solvers))
    stages = {name: {s: median(clip[s] for clip in clips[name]) for s in STAGES} for name in compared}
    latency = {name: median(clip["deep"] + clip["shallow"] for clip in clips[name]) for name in compared}
    published = min(latency["published-32"], latency["published-64"])
    exact = accuracy["sequential"].latents
    return [
        Row(
            sampler=name,
            num_frames=num_frames,
            batch_size=batch_size,
            latency_s=latency[name],
            speedup_over_sequential=latency["sequential"] / latency[name],
            speedup_over_published=published / latency[name],
            max_error=(got.latents - exact).abs().max().item(),
            max_residual=got.max_residual,
            sweeps=got.deep.sweeps,
            evaluations_per_token=got.deep.evaluations / got.deep.tokens,
            sweep_overhead=got.sweep_overhead,
            peak_memory_mb=max(peaks[name]),
            time_to_first_frame_s=median(firsts[name]),
            clip_s=median(sum(clip.values()) for clip in clips[name]),
            stages_s=stages[name],
            seconds_of_video=num_frames / pipeline.config.fps,
            repeats=repeats,
            machine=machine,
        )
        for name, got in accuracy.items()
    ]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as `--json` writes them."""
    return [asdict(row) for row in rows]


def _plan(pipeline: StarFlowPipeline, prompts: list[str], num_frames: int, seed: int, solvers: Solvers) -> Plan:
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    return replace(pipeline.plan(prompts, num_frames=num_frames, generator=generators), solvers=solvers)


def check(pipeline: StarFlowPipeline, plan: Plan) -> Accuracy:
    """Sample once, looking at every pass through the deep block and measuring what it leaves."""
    flow, watched, report = pipeline.flow, _Watched(plan.solvers.deep), SamplingReport()
    noise = plan.noise.permute(0, 1, 3, 4, 2)
    frames = deep_frames(
        flow,
        noise,
        plan.text,
        plan.null_text,
        plan.guidance_scale,
        None,
        plan.window,
        watched,
        report,
        plan.later_text,
    )
    u = torch.cat(list(frames), dim=1)
    x = invert_shallow(flow, u, plan.solvers.shallow, report).permute(0, 1, 4, 2, 3)
    return Accuracy(x, report.deep, watched.max_residual, watched.seconds / watched.passes.seconds)


def make_clips(
    pipeline: StarFlowPipeline, prompts: list[str], num_frames: int, seed: int, solvers: Solvers
) -> dict[str, float]:
    """Make and write the clips, as `pipeline(...)` does; the seconds of each stage."""
    watch = Stopwatch(pipeline.device)
    with watch.stage("text"):
        plan = _plan(pipeline, prompts, num_frames, seed, solvers)
    video = torch.cat(list(_videos(pipeline, plan, plan.noise.shape[1], watch)), dim=1)
    with watch.stage("writing"), TemporaryDirectory() as folder:
        frames = pipeline.video_processor.postprocess_video(video.transpose(1, 2), output_type="np")
        for index, clip in enumerate((frames * 255).round().astype("uint8")):
            write_video(Path(folder) / f"{index}.mp4", clip, plan.fps)
    return {stage: watch.seconds[stage] for stage in STAGES}


def first_frame(pipeline: StarFlowPipeline, prompts: list[str], num_frames: int, seed: int, solvers: Solvers) -> float:
    """Seconds from the prompts to their first pictures, when each latent frame goes on as soon as it is there."""
    start = time.perf_counter()
    plan = _plan(pipeline, prompts, num_frames, seed, solvers)
    next(_videos(pipeline, plan, 1, Stopwatch(pipeline.device)))
    return time.perf_counter() - start


def _videos(pipeline: StarFlowPipeline, plan: Plan, frames_at_once: int, watch: Stopwatch) -> Iterator[Tensor]:
    """The stages of the pipeline: videos `(B, f, 3, height, width)` in [-1, 1]."""
    last = plan.noise.shape[1] - 1

    def on_frame(index: int, u: Tensor) -> None:
        if index == last:
            watch.switch("shallow")

    noisy = watch.timed("deep", sampled(pipeline.flow, plan, frames_at_once, on_frame))
    clean = denoised(pipeline.flow, pipeline.denoiser, pipeline.config.noise_std, noisy, plan.text)
    return watch.timed("vae", pipeline.codec.stream_decode(restored(watch.timed("denoiser", clean), plan.given)))


class _Watched:
    """A solver of the deep block, timed, and its residuals measured once it is done."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.passes = _Passes()
        self.seconds = 0.0
        self.max_residual = 0.0

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        begun = time.perf_counter()
        steps = list(self.solver(_TimedGaussians(gaussians, self.passes), z, v, start, stop, frame_tokens))
        self.seconds += time.perf_counter() - begun
        mu, sigma = gaussians.evaluate(v, start, stop)
        residual = ((v[:, start:stop] - mu) / sigma - z[:, start:stop]).abs().max().item()
        self.max_residual = max(self.max_residual, residual)
        yield from steps


@dataclass
class _Passes:
    """Seconds in passes through a block."""

    seconds: float = 0.0


class _TimedGaussians:
    def __init__(self, gaussians: Gaussians, passes: _Passes) -> None:
        self.gaussians, self.passes = gaussians, passes

    def _timed(self, evaluate: Callable[..., tuple[Tensor, Tensor]], *arguments: Any) -> tuple[Tensor, Tensor]:
        begun = time.perf_counter()
        mu, sigma = evaluate(*arguments)
        if mu.is_cuda:
            torch.cuda.synchronize(mu.device)
        self.passes.seconds += time.perf_counter() - begun
        return mu, sigma

    def evaluate(self, v: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._timed(self.gaussians.evaluate, v, start, stop)

    def evaluate_windows(self, v: Tensor, windows: Sequence[range]) -> tuple[Tensor, Tensor]:
        return self._timed(self.gaussians.evaluate_windows, v, windows)
