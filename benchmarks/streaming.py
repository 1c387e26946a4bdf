"""Seconds to the first and to the last frame of a video, streamed and made whole.

    python benchmarks/streaming.py -o streaming/ [--num-frames 17 81 241] [--repeats 3]

Prints a table, and writes streaming.json and streaming.png. Streamed, each latent frame is decoded as soon as it is
sampled (`pipeline.stream`). Whole, all latent frames go through one stage after the other (`pipeline(...)`), and the
first frame comes with the last. Seconds count from the prompt, with the model already loaded; they are medians over the
repeats.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import harness
from starflow.pipeline.pipeline import StarFlowPipeline

PROMPT = "a red circle orbits"


def stream(pipeline: StarFlowPipeline, num_frames: int, seed: int) -> list[float]:
    """Seconds from the prompt to each frame."""
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    with pipeline.stream(PROMPT, num_frames=num_frames, generator=generator, output_type="np") as frames:
        return [time.perf_counter() - start for _ in frames]


def whole(pipeline: StarFlowPipeline, num_frames: int, seed: int) -> float:
    """Seconds from the prompt to the video."""
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    pipeline(PROMPT, num_frames=num_frames, generator=generator, output_type="np")
    return time.perf_counter() - start


def measure(pipeline: StarFlowPipeline, num_frames: int, repeats: int) -> dict[str, Any]:
    """One row of the table. Streamed and whole alternate, so that other work on the machine slows both."""
    streamed, at_once = [], []
    for seed in range(repeats):
        streamed.append(stream(pipeline, num_frames, seed))
        at_once.append(whole(pipeline, num_frames, seed))
    arrivals = np.median(streamed, axis=0)
    return {
        "num_frames": num_frames,
        "seconds_of_video": num_frames / pipeline.config.fps,
        "streamed": {"first_frame": arrivals[0], "total": arrivals[-1], "arrivals": arrivals.tolist()},
        "whole": {"total": float(np.median(at_once))},
    }


def draw(rows: list[dict[str, Any]], fps: float) -> Figure:
    """Seconds of video that there are, over time."""
    figure = Figure(figsize=(4 * len(rows), 3.6), layout="constrained")
    for axes, row in zip(np.atleast_1d(figure.subplots(1, len(rows))), rows, strict=True):
        shown = (np.arange(row["num_frames"]) + 1) / fps
        total = row["whole"]["total"]
        axes.step([0, *row["streamed"]["arrivals"]], [0, *shown], where="post", label="streamed")
        axes.step([0, total], [0, shown[-1]], where="post", label="whole")
        axes.plot([0, shown[-1]], [0, shown[-1]], ":", color="0.5", label="as fast as it plays")
        axes.set_title(f"{row['num_frames']} frames")
        axes.set_xlabel("seconds since the prompt")
        axes.set_ylabel("seconds of video there are")
        axes.legend(frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Print the table, write the files."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[17, 81, 241])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model)
    stream(pipeline, pipeline.config.num_frames, 0)  # the first call is slower

    print(f"{'frames':>8}{'of video, s':>13}{'first frame, s':>16}{'streamed, s':>13}{'whole, s':>10}")
    rows = []
    for num_frames in arguments.num_frames:
        row = measure(pipeline, num_frames, arguments.repeats)
        rows.append(row)
        streamed, total = row["streamed"], row["whole"]["total"]
        print(
            f"{num_frames:>8}{row['seconds_of_video']:>13.1f}{streamed['first_frame']:>16.2f}"
            f"{streamed['total']:>13.2f}{total:>10.2f}",
            flush=True,
        )
    results = {"model": arguments.model, "prompt": PROMPT, "repeats": arguments.repeats, "rows": rows}
    harness.write_results(arguments.output / "streaming.json", pipeline.device, **results)
    harness.save_figure(draw(rows, pipeline.config.fps), arguments.output / "streaming.png")


if __name__ == "__main__":
    harness.run(main)
