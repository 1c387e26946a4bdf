"""What the context of the rolling window costs, and how long videos drift with it.

    python benchmarks/context.py
    python benchmarks/context.py --clips 100 --seconds 10 --contexts 1 2 3 4 --json context.json

When the rolling window moves on, its last `context` latent frames are encoded again. Fewer of them are cheaper, and the
video remembers less. Each context makes the same clips from the same noise. The table has the seconds from noise to
latents of one clip (the least of the repeats, which alternate), and for the last second of all clips what the checker
of the toyworld finds: the shares of clips with exactly one object, of the caption's colour and shape, and with the
background of the first second; and the sharpness of the edges over that of the first second.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
from clocks import timed
from starflow.evaluation.generation import generator_of
from starflow.media.frames import from_unit
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import Plan, SamplingReport, sample
from starflow.toyworld.evaluation.drift import PURPOSE, measure_seconds
from starflow.toyworld.evaluation.prompts import Prompt, held_out_prompts

SHARES = ("alone", "color", "shape", "background")
HEADER = f"{'context':>7}{'seconds':>9}{'sweeps':>8}" + "".join(f"{name:>12}" for name in (*SHARES, "sharpness"))
BATCH_SIZE = 8


def cost(pipeline: StarFlowPipeline, contexts: Sequence[int], num_frames: int, repeats: int) -> dict[int, Any]:
    """Seconds and sweeps of the sampling of one clip, for each context."""
    seconds: dict[int, list[float]] = {context: [] for context in contexts}
    sweeps: dict[int, int] = {}
    for _ in range(repeats):
        for context in contexts:
            generator = torch.Generator().manual_seed(0)
            video = pipeline.plan(harness.PROMPTS[0], num_frames=num_frames, context=context, generator=generator)
            plan = replace(video.sampling, report=SamplingReport())
            seconds[context].append(timed(partial(_sample, pipeline, plan))[1])
            sweeps[context] = plan.report.deep.sweeps
    return {context: {"seconds": min(seconds[context]), "sweeps": sweeps[context]} for context in contexts}


def _sample(pipeline: StarFlowPipeline, plan: Plan) -> None:
    for _ in sample(pipeline.flow, plan):
        pass


def drift(pipeline: StarFlowPipeline, prompts: Sequence[Prompt], num_frames: int, context: int) -> dict[str, Any]:
    """What the checker finds in each second of the clips (`measure_seconds`)."""
    clips = []
    for first in range(0, len(prompts), BATCH_SIZE):
        some = range(first, min(first + BATCH_SIZE, len(prompts)))
        harness.show_progress(f"context {context}: clip {first + 1} of {len(prompts)}")
        output = pipeline(
            [prompts[index].caption for index in some],
            num_frames=num_frames,
            context=context,
            generator=[generator_of(0, PURPOSE, index) for index in some],
            output_type="np",
        )
        clips.append(from_unit(output.frames))
    return measure_seconds(np.concatenate(clips), prompts)


def table_row(row: dict[str, Any]) -> str:
    """The last second of `drift`, as a line of the table; `-` where the checker finds no object."""
    values = [row["drift"][name][-1]["value"] for name in SHARES]
    shares = ["-" if value is None else f"{value:.0%}" for value in values]
    first, *_, last = row["drift"]["sharpness"]
    kept = "-" if first is None or last is None else f"{last['mean'] / first['mean']:.2f}"
    line = f"{row['context']:>7}{row['seconds']:>9.2f}{row['sweeps']:>8}"
    return line + "".join(f"{value:>12}" for value in (*shares, kept))


def measure(pipeline: StarFlowPipeline, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return a row for each context."""
    num_frames = round(arguments.seconds * pipeline.config.fps) + 1
    prompts = held_out_prompts(0, arguments.clips, 1)
    costs = cost(pipeline, arguments.contexts, num_frames, arguments.repeats)
    rows = []
    print(HEADER)
    for context in arguments.contexts:
        row = {"context": context, **costs[context], "drift": drift(pipeline, prompts, num_frames, context)}
        print(table_row(row), flush=True)
        rows.append(row)
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Print the table; with `--json`, write all seconds of it."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--contexts", type=harness.positive, nargs="+", default=[4, 3, 2, 1], help="in latent frames")
    parser.add_argument("--clips", type=harness.positive, default=24, help="clips that are checked")
    parser.add_argument("--seconds", type=harness.positive, default=10, help="length of the clips")
    parser.add_argument("--repeats", type=harness.positive, default=3, help="of the measurement of seconds")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    harness.add_model_options(parser)
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model, arguments.device, arguments.dtype)
    rows = measure(pipeline, arguments)
    if arguments.json is not None:
        harness.write_results(arguments.json, pipeline.device, model=arguments.model, rows=rows)


if __name__ == "__main__":
    harness.run(main)
