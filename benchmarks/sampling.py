"""Seconds, exactness and memory of the samplers, side by side on the same weights and noise.

    python benchmarks/sampling.py --json sampling.json --plot sampling.png
    python benchmarks/sampling.py --frames 17 --batch-sizes 1 --repeats 9

Compares sequential sampling, the published block-wise Jacobi (blocks of 32 tokens, then 128; blocks of 64, then 512)
and the sliding window, of the size that the pipeline chooses on this machine for so many clips: run
`block_sizes.py --store` before. They run in turn. Seconds are from noise to latents; the error is the largest
difference from the latents of sequential sampling. The default settings take minutes on two cores.

Legend: `B` prompts, `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import harness
from clocks import PeakMemory, Stopwatch, TimedGaussians, TimedSolver, seconds_now, timed_videos
from starflow.evaluation.machine import describe_machine
from starflow.flow.model import StarFlow
from starflow.media.frames import to_frames
from starflow.media.video import write_video
from starflow.pipeline.options import Options
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import VideoPlan
from starflow.sampling.published import PublishedJacobi
from starflow.sampling.sampler import Plan, SamplingReport, sample
from starflow.sampling.solvers import Gaussians, Progress, Solution, Solver, Solvers, sequential

STAGES = ("text", "deep", "shallow", "denoiser", "vae", "writing")
HEADER = (
    f"{'sampler':<14}{'frames':>7}{'batch':>6}{'seconds':>9}{'speed-up':>9}{'error':>9}{'residual':>9}{'sweeps':>7}"
    f"{'evals/token':>12}{'MB':>7}{'1st frame s':>12}{'clip s':>8}"
)


@dataclass(frozen=True)
class Row:
    """One sampler on clips of one length. Seconds are medians over the repeats.

    `latency_s` is the time from noise to latents. `stages_s` has the time of each of `STAGES`, and `clip_s` their sum,
    from the prompts to the written files. `time_to_first_frame_s` is the time from the prompts to the first decoded
    frame when latent frames are streamed one by one. `max_error` is the largest difference from the latents of
    sequential sampling. `max_residual` is the largest residual of the deep block, measured on the result. `sweeps` and
    `evaluations_per_token` are those of the deep block. `sweep_overhead` is the time that its solver takes, divided by
    the time of the passes through the block alone.
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

    def __str__(self) -> str:
        return (
            f"{self.sampler:<14}{self.num_frames:>7}{self.batch_size:>6}{self.latency_s:>9.2f}"
            f"{self.speedup_over_sequential:>8.1f}×{self.max_error:>9.4f}{self.max_residual:>9.4f}{self.sweeps:>7}"
            f"{self.evaluations_per_token:>12.1f}{self.peak_memory_mb:>7.0f}{self.time_to_first_frame_s:>12.2f}"
            f"{self.clip_s:>8.2f}"
        )


@dataclass
class Accuracy:
    """Latents `(B, T, D, H, W)` at the noise level of training, and what the deep block's solver did."""

    latents: Tensor
    deep: Solution
    max_residual: float
    sweep_overhead: float


def samplers(pipeline: StarFlowPipeline, batch_size: int) -> dict[str, Solvers]:
    """The samplers to compare, by name. `sliding` has the window that the pipeline chooses for so many clips."""
    asked = Options(sampler="sliding").with_defaults(pipeline.config)
    return {
        "sequential": Solvers(sequential, sequential),
        "published-32": Solvers(PublishedJacobi(32, 128), PublishedJacobi(32, 128)),
        "published-64": Solvers(PublishedJacobi(64, 512), PublishedJacobi(64, 512)),
        "sliding": pipeline.solvers(asked, batch_size),
    }


def machine_of(pipeline: StarFlowPipeline) -> str:
    """The machine in a few words."""
    about = describe_machine(pipeline.device)
    return f"{about['gpu'] or about['cpu']}, {about['cores']} cores, {about['threads']} threads"


def measure(
    pipeline: StarFlowPipeline, num_frames: int, batch_size: int, repeats: int, seed: int, machine: str
) -> list[Row]:
    """The rows of all samplers on `batch_size` clips of `num_frames`."""
    prompts = [harness.PROMPTS[index % len(harness.PROMPTS)] for index in range(batch_size)]
    compared = samplers(pipeline, batch_size)
    clips: dict[str, list[dict[str, float]]] = {name: [] for name in compared}
    first_frames: dict[str, list[float]] = {name: [] for name in compared}
    peaks: dict[str, list[float]] = {name: [] for name in compared}
    memory = PeakMemory(pipeline.device)
    harness.show_progress(f"{num_frames} frames, batch {batch_size}: exactness")  # this also warms up
    accuracy = {
        name: check(pipeline.flow, _plan(pipeline, prompts, num_frames, seed, solvers).sampling)
        for name, solvers in compared.items()
    }
    for repeat in range(repeats):
        harness.show_progress(f"{num_frames} frames, batch {batch_size}: repeat {repeat + 1} of {repeats}")
        for name, solvers in compared.items():
            memory.reset()
            clips[name].append(make_clips(pipeline, prompts, num_frames, seed, solvers))
            peaks[name].append(memory.mb())
            first_frames[name].append(first_frame(pipeline, prompts, num_frames, seed, solvers))
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
            time_to_first_frame_s=median(first_frames[name]),
            clip_s=median(sum(clip.values()) for clip in clips[name]),
            stages_s={stage: median(clip[stage] for clip in clips[name]) for stage in STAGES},
            seconds_of_video=num_frames / pipeline.config.fps,
            repeats=repeats,
            machine=machine,
        )
        for name, got in accuracy.items()
    ]


def _plan(pipeline: StarFlowPipeline, prompts: list[str], num_frames: int, seed: int, solvers: Solvers) -> VideoPlan:
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    plan = pipeline.plan(prompts, num_frames=num_frames, generator=generators)
    return replace(plan, sampling=replace(plan.sampling, solvers=solvers))


def check(flow: StarFlow, plan: Plan) -> Accuracy:
    """Sample once; time the passes through the deep block and measure the residual of its result."""
    solver = _CheckedSolver(plan.solvers.deep)
    checked = replace(plan, solvers=Solvers(solver, plan.solvers.shallow), report=SamplingReport())
    x = torch.cat(list(sample(flow, checked)), dim=1)
    return Accuracy(x, checked.report.deep, solver.max_residual, solver.seconds / solver.pass_seconds)


class _CheckedSolver:
    """A solver of the deep block that measures its seconds, those of its passes, and the residual of its result."""

    def __init__(self, solver: Solver) -> None:
        self.timed = TimedSolver(solver)
        self.pass_seconds = 0.0
        self.max_residual = 0.0

    @property
    def seconds(self) -> float:
        return self.timed.seconds

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        passes = TimedGaussians(gaussians)
        yield from self.timed(passes, z, v, start, stop, frame_tokens)
        self.pass_seconds += passes.seconds
        mu, sigma = gaussians.evaluate(v, start, stop)
        residual = ((v[:, start:stop] - mu) / sigma - z[:, start:stop]).abs().max().item()
        self.max_residual = max(self.max_residual, residual)


def make_clips(
    pipeline: StarFlowPipeline, prompts: list[str], num_frames: int, seed: int, solvers: Solvers
) -> dict[str, float]:
    """Make and write the clips as `pipeline(...)` does; returns the seconds of each of `STAGES`."""
    watch = Stopwatch()
    with watch.stage("text"):
        plan = _plan(pipeline, prompts, num_frames, seed, solvers)
    video = torch.cat(list(timed_videos(pipeline, plan, plan.sampling.num_frames, watch)), dim=1)
    with watch.stage("writing"), TemporaryDirectory() as folder:
        for index, clip in enumerate(to_frames(video)):
            write_video(Path(folder) / f"{index}.mp4", clip, plan.fps)
    return {stage: watch.seconds[stage] for stage in STAGES}


def first_frame(pipeline: StarFlowPipeline, prompts: list[str], num_frames: int, seed: int, solvers: Solvers) -> float:
    """Seconds from the prompts to their first decoded frames, when latent frames are streamed one by one."""
    start = seconds_now()
    plan = _plan(pipeline, prompts, num_frames, seed, solvers)
    next(timed_videos(pipeline, plan, 1, Stopwatch()))
    return seconds_now() - start


def draw(rows: Sequence[Row]) -> Figure:
    """Latency over length for each batch size, and the seconds of each stage for the longest clip."""
    batch_sizes = sorted({row.batch_size for row in rows})
    figure = Figure(figsize=(4 * (len(batch_sizes) + 1), 3.8), layout="constrained")
    *latencies, stages = figure.subplots(1, len(batch_sizes) + 1)
    for axes, batch_size in zip(latencies, batch_sizes, strict=True):
        _draw_latency(axes, [row for row in rows if row.batch_size == batch_size])
        axes.set_title(f"{batch_size} at once")
    longest = max(row.num_frames for row in rows)
    _draw_stages(stages, [row for row in rows if (row.num_frames, row.batch_size) == (longest, batch_sizes[0])])
    stages.set_title(f"{longest} frames, {batch_sizes[0]} at once")
    figure.suptitle(rows[0].machine, fontsize="small", color="0.4")
    return figure


def _draw_latency(axes: Axes, rows: Sequence[Row]) -> None:
    for sampler in dict.fromkeys(row.sampler for row in rows):
        points = [(row.num_frames, row.latency_s) for row in rows if row.sampler == sampler]
        axes.loglog(*zip(*points, strict=True), marker="o", label=sampler)
    playing = sorted({(row.num_frames, row.seconds_of_video) for row in rows})
    axes.loglog(*zip(*playing, strict=True), ":", color="0.5", label="as fast as it plays")
    axes.set_xticks([num_frames for num_frames, _ in playing], labels=[str(num_frames) for num_frames, _ in playing])
    axes.minorticks_off()
    axes.set_xlabel("frames")
    axes.set_ylabel("seconds from noise to latents")
    axes.legend(frameon=False, fontsize="small")


def _draw_stages(axes: Axes, rows: Sequence[Row]) -> None:
    names = [row.sampler for row in rows]
    left = [0.0] * len(rows)
    for stage in STAGES:
        seconds = [row.stages_s[stage] for row in rows]
        axes.barh(names, seconds, left=left, label=stage)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds from prompt to file")
    axes.legend(frameon=False, fontsize="small")


def main(args: Sequence[str] | None = None) -> None:
    """Print the table, write the requested files. Raises UsageError for lengths that the VAE cannot make."""
    parser = harness.new_parser(__doc__)
    parser.add_argument(
        "--frames", type=harness.positive, nargs="+", default=[17, 81, 241], help="lengths of the clips"
    )
    parser.add_argument("--batch-sizes", type=harness.positive, nargs="+", default=[1, 4], help="clips at once")
    parser.add_argument("--repeats", type=harness.positive, default=3, help="seconds are medians over these")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this PNG")
    harness.add_model_options(parser)
    options = parser.parse_args(args)
    pipeline = harness.load(options.model, options.device, options.dtype)
    for num_frames in options.frames:
        pipeline.codec.num_latent_frames(num_frames)  # raises before anything is measured
    machine = machine_of(pipeline)
    print(machine)
    print(HEADER, flush=True)
    rows: list[Row] = []
    for num_frames in options.frames:
        for batch_size in options.batch_sizes:
            measured = measure(pipeline, num_frames, batch_size, options.repeats, options.seed, machine)
            print(*measured, sep="\n", flush=True)
            rows += measured
    if options.json is not None:
        harness.write_json(options.json, [asdict(row) for row in rows])
    if options.plot is not None:
        harness.save_figure(draw(rows), options.plot)


if __name__ == "__main__":
    harness.run(main)
