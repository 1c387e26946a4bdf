"""How many tokens at once are fastest, in the deep block and in the shallow ones: measured, once per model.

Legend: `B` prompts, `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from starflow.benchmark.clocks import timed
from starflow.benchmark.sampling import PROMPTS
from starflow.flow.block import AffineBlock
from starflow.flow.model import StarFlow
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import Plan
from starflow.sampling.sampler import SamplingReport, deep_frames, invert_shallow, solvers_named
from starflow.sampling.solvers import Gaussians, Progress, Solution, Solver


@dataclass(frozen=True)
class WindowRow:
    """One window size in the deep block or in the shallow ones, for one clip.

    Seconds are of the blocks in all, the caption's way through the deep one included, and the least of the repeats,
    which other work on the machine disturbs least.

    `sweep_over_pass` is the time of a sweep, all that the solver does in it included, over that of one plain parallel
    pass through a block of its kind, over as many tokens and as many branches, without a cache and with nothing else
    around it.
    """

    blocks: str
    window: int
    seconds: float
    sweeps: int
    evaluations_per_token: float
    sweep_over_pass: float


@dataclass
class _Measured:
    seconds: list[float] = field(default_factory=list)
    solver_seconds: list[float] = field(default_factory=list)
    pass_seconds: list[float] = field(default_factory=list)
    done: Solution = field(default_factory=Solution)

    def row(self, blocks: str, window: int) -> WindowRow:
        return WindowRow(
            blocks,
            window,
            seconds=min(self.seconds),
            sweeps=self.done.sweeps,
            evaluations_per_token=self.done.evaluations / self.done.tokens,
            sweep_over_pass=min(self.solver_seconds) / self.done.sweeps / min(self.pass_seconds),
        )


@torch.no_grad()
def measure_windows(
    pipeline: StarFlowPipeline, windows: Sequence[int], repeats: int, seed: int, say: Callable[[str], None]
) -> list[WindowRow]:
    """Rows of all windows, on one clip of the model's length, by turns, at the model's tolerance."""
    flow = pipeline.flow
    plan = pipeline.plan(PROMPTS[0], generator=torch.Generator().manual_seed(seed))
    measured = {(blocks, window): _Measured() for blocks in ("deep", "shallow") for window in windows}
    for repeat in range(repeats):
        for window in windows:
            say(f"repeat {repeat + 1} of {repeats}, {window} tokens at once")
            deep, shallow = measured["deep", window], measured["shallow", window]
            _sample(flow, plan, window, pipeline.config.tolerance, deep, shallow)
            branches, num_frames = 1 + bool(plan.guidance_scale), plan.noise.shape[1]
            deep.pass_seconds.append(_one_pass(flow, flow.num_blocks - 1, branches, deep.done, 1))
            shallow.pass_seconds.append(_one_pass(flow, 0, num_frames, shallow.done, num_frames))
    return [each.row(blocks, window) for (blocks, window), each in measured.items()]


def fastest(rows: Sequence[WindowRow], blocks: str) -> int:
    """The window that took least time in these blocks."""
    return min((row for row in rows if row.blocks == blocks), key=lambda row: row.seconds).window


def _sample(flow: StarFlow, plan: Plan, window: int, tolerance: float, deep: _Measured, shallow: _Measured) -> None:
    solvers = solvers_named("sliding", tolerance=tolerance, block_size=window, shallow_block_size=window)
    report, noise = SamplingReport(), plan.noise.permute(0, 1, 3, 4, 2)
    text = plan.text, plan.null_text, plan.guidance_scale
    deep_solver, shallow_solver = _TimedSolver(solvers.deep), _TimedSolver(solvers.shallow)

    def invert_deep() -> Tensor:
        return torch.cat(list(deep_frames(flow, noise, *text, None, plan.window, deep_solver, report)), dim=1)

    u, seconds = timed(invert_deep)
    deep.seconds.append(seconds)
    deep.solver_seconds.append(deep_solver.seconds)
    shallow.seconds.append(timed(lambda: invert_shallow(flow, u, shallow_solver, report))[1])
    shallow.solver_seconds.append(shallow_solver.seconds)
    deep.done, shallow.done = report.deep, report.shallow


class _TimedSolver:
    """A solver and the seconds that it has taken."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.seconds = 0.0

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        steps, seconds = timed(lambda: list(self.solver(gaussians, z, v, start, stop, frame_tokens)))
        self.seconds += seconds
        yield from steps


def _one_pass(flow: StarFlow, index: int, rows: int, done: Solution, samples: int) -> float:
    """Seconds of a parallel pass of block `index` over the mean number of tokens of a sweep."""
    tokens = max(1, round(done.evaluations / done.sweeps / samples))
    block: AffineBlock = flow.blocks[index]  # type: ignore[assignment]
    rotation = flow.rotation(index, (1, 1, tokens))
    v = torch.zeros(rows, tokens, block.sos.shape[-1], device=rotation.device)
    return timed(lambda: block.predict(v, rotation))[1]
