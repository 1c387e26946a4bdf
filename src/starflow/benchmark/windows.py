"""How many tokens at once are fastest, in the deep block and in the shallow ones: measured, once per model."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from starflow.benchmark.sampling import PROMPTS
from starflow.pipeline import StarFlowPipeline
from starflow.sampling.sampler import SamplingReport, deep_frames, invert_shallow, solvers_named
from starflow.sampling.solvers import Solution


@dataclass(frozen=True)
class WindowRow:
    """One window size in the deep block or in the shallow ones: what it did for one clip, and the median seconds."""

    blocks: str
    window: int
    seconds: float
    sweeps: int
    evaluations_per_token: float


@torch.no_grad()
def measure_windows(
    pipeline: StarFlowPipeline, windows: Sequence[int], repeats: int, seed: int, say: Callable[[str], None]
) -> list[WindowRow]:
    """Rows of all windows, on one clip of the model's length, by turns, at the model's tolerance."""
    plan = pipeline.plan(PROMPTS[0], generator=torch.Generator().manual_seed(seed))
    noise = plan.noise.permute(0, 1, 3, 4, 2)
    settings = (plan.text, plan.null_text, plan.guidance_scale, None, plan.window)
    seconds: dict[tuple[str, int], list[float]] = {(b, w): [] for b in ("deep", "shallow") for w in windows}
    done: dict[tuple[str, int], Solution] = {}
    for repeat in range(repeats):
        for window in windows:
            say(f"repeat {repeat + 1} of {repeats}, {window} tokens at once")
            solvers = solvers_named(
                "sliding", tolerance=pipeline.config.tolerance, block_size=window, shallow_block_size=window
            )
            report, start = SamplingReport(), time.perf_counter()
            u = torch.cat(list(deep_frames(pipeline.flow, noise, *settings, solvers.deep, report)), dim=1)
            between = time.perf_counter()
            invert_shallow(pipeline.flow, u, solvers.shallow, report)
            seconds["deep", window].append(between - start)
            seconds["shallow", window].append(time.perf_counter() - between)
            done["deep", window], done["shallow", window] = report.deep, report.shallow
    return [
        WindowRow(
            blocks=blocks,
            window=window,
            seconds=median(each),
            sweeps=done[blocks, window].sweeps,
            evaluations_per_token=done[blocks, window].evaluations / done[blocks, window].tokens,
        )
        for (blocks, window), each in seconds.items()
    ]


def fastest(rows: Sequence[WindowRow], blocks: str) -> int:
    """The window that took least time in these blocks."""
    return min((row for row in rows if row.blocks == blocks), key=lambda row: row.seconds).window
