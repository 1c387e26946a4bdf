"""How the speed-up of the sliding window grows with the tokens of a latent frame, counted in sweeps.

    python benchmarks/growth.py --models toyworld runs/big-buck-bunny/flow/final runs/toyworld-64-flow/final

Samples single clips of each model, of its own length, with windows of half a frame, a frame and two frames, at the same
tolerance. Counts do not depend on the machine. A speed-up is that of the deep block over token by token if a sweep
takes as long as one token, as on a machine that waits for the weights. `s ~ n^a`: between each two models, the exponent
`a` with which the sweeps `s` of a frame grow with its tokens `n`, for windows of a frame. With the smallest and the
largest of them, and from the model with the most tokens, the last line predicts a frame of `--tokens`.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import log
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

import harness
from starflow.errors import UsageError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import SamplingReport, deep_frames, solvers_named

SHARES = (0.5, 1, 2)  # windows, in frames
HEADER = f"{'tokens':>7}{'window':>8}{'sweeps of a frame':>19}{'of all clips':>16}{'evals/token':>13}{'speed-up':>10}"


class Row(NamedTuple):
    """A model and a window: tokens of a frame, and of each clip the sweeps per latent frame."""

    model: str
    tokens: int
    window: int
    sweeps: list[float]
    evaluations_per_token: float

    @property
    def mean(self) -> float:
        """Sweeps of a latent frame."""
        return float(np.mean(self.sweeps))

    def __str__(self) -> str:
        extent = f"{min(self.sweeps):.1f} to {max(self.sweeps):.1f}"
        counts = f"{self.tokens:>7}{self.window:>8}{self.mean:>19.1f}{extent:>16}"
        return f"{counts}{self.evaluations_per_token:>13.1f}{self.tokens / self.mean:>9.1f}×"


@torch.no_grad()
def measure(pipeline: StarFlowPipeline, model: str, prompts: Sequence[str], tolerance: float) -> list[Row]:
    """The rows of a model, one for each window."""
    plans = [
        pipeline.plan(prompt, generator=torch.Generator().manual_seed(seed)).sampling
        for seed, prompt in enumerate(prompts)
    ]
    tokens = plans[0].noise.shape[-2] * plans[0].noise.shape[-1]
    rows = []
    for window in (round(share * tokens) for share in SHARES):
        solvers = solvers_named("sliding", tolerance=tolerance, block_size=window, shallow_block_size=1)
        reports = []
        for number, plan in enumerate(plans):
            harness.show_progress(f"{model}: windows of {window} tokens, clip {number + 1} of {len(plans)}")
            reports.append(SamplingReport())
            for _ in deep_frames(pipeline.flow, replace(plan, solvers=solvers, report=reports[-1])):
                pass
        sweeps = [report.deep.sweeps / plans[0].num_frames for report in reports]
        evaluations = sum(report.deep.evaluations for report in reports) / sum(report.deep.tokens for report in reports)
        rows.append(Row(model, tokens, window, sweeps, evaluations))
    return rows


def exponents(rows: Sequence[Row]) -> list[float]:
    """The exponent between each two models with different frames, for windows of a frame."""
    whole = [row for row in rows if row.window == row.tokens]
    return [
        log(one.mean / other.mean) / log(one.tokens / other.tokens)
        for one, other in combinations(whole, 2)
        if one.tokens != other.tokens
    ]


def prediction(rows: Sequence[Row], tokens: int) -> tuple[float, float]:
    """The fewest and the most sweeps of a frame of `tokens` tokens."""
    largest = max((row for row in rows if row.window == row.tokens), key=lambda row: row.tokens)
    found = [largest.mean * (tokens / largest.tokens) ** exponent for exponent in exponents(rows)]
    return min(found), max(found)


def draw(rows: Sequence[Row], tokens: int) -> Figure:
    """Sweeps of a frame over its tokens, with the prediction."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for share in SHARES:
        chosen = [row for row in rows if row.window == round(share * row.tokens)]
        spread = [[row.mean - min(row.sweeps) for row in chosen], [max(row.sweeps) - row.mean for row in chosen]]
        label = f"window of {share:g} frame{'s' if share > 1 else ''}"
        axes.errorbar([row.tokens for row in chosen], [row.mean for row in chosen], spread, marker="o", label=label)
    axes.vlines(tokens, *prediction(rows, tokens), color="0.4", linewidth=3, label="predicted, window of 1 frame")
    axes.plot([4, tokens], [4, tokens], ":", color="0.5", label="token by token")
    axes.set(xscale="log", yscale="log", xlabel="tokens of a latent frame", ylabel="sweeps of a latent frame")
    axes.legend(frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and the prediction."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["toyworld"], help="bundled models, folders, or hub ids")
    parser.add_argument("--prompts", nargs="+", default=harness.PROMPTS, help="a clip is made of each")
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--tokens", type=harness.positive, default=1590, help="of the frame that is predicted")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this PNG; needs models with different frames")
    arguments = parser.parse_args(args)
    if arguments.tolerance <= 0:
        raise UsageError(f"the tolerance must be more than 0, not {arguments.tolerance}")
    rows: list[Row] = []
    print(HEADER)
    for model in arguments.models:
        pipeline = harness.load(model)
        rows += (new := measure(pipeline, model, arguments.prompts, arguments.tolerance))
        print(model, *new, sep="\n", flush=True)
    if found := exponents(rows):
        print("s ~ n^a, a:", *(f"{exponent:.2f}" for exponent in found))
        few, many = prediction(rows, arguments.tokens)
        speed = f"{arguments.tokens / many:.0f} to {arguments.tokens / few:.0f}"
        print(f"predicted for {arguments.tokens} tokens: {few:.0f} to {many:.0f} sweeps of a frame, {speed} times")
    if arguments.json is not None:
        harness.write_results(arguments.json, rows=[row._asdict() for row in rows])
    if arguments.plot is not None:
        if not found:
            raise UsageError("a plot needs two models whose frames have different numbers of tokens")
        harness.save_figure(draw(rows, arguments.tokens), arguments.plot)


if __name__ == "__main__":
    harness.run(main)
