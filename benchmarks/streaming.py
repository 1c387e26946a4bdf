"""Time to the first frame of a video against the time to the last, streamed and whole.

    python benchmarks/streaming.py -o streaming/ [--num-frames 17 81 241] [--repeats 3]

Prints a table, and writes streaming.json and streaming.png. Streamed, each latent frame is decoded as soon as it is
there (`pipeline.stream`); whole, all of them go through every stage at once (`pipeline(...)`), so that the first frame
comes with the last. Seconds count from the prompt, the model being loaded; medians over the repeats.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from starflow.evaluation.machine import describe_machine, now
from starflow.media.files import atomic_write
from starflow.pipeline.pipeline import StarFlowPipeline

PROMPT = "a red circle orbits"


def stream(pipeline: StarFlowPipeline, num_frames: int, seed: int) -> list[float]:
    """When each frame came, in seconds."""
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    with pipeline.stream(PROMPT, num_frames=num_frames, generator=generator, output_type="np") as frames:
        return [time.perf_counter() - start for _ in frames]


def whole(pipeline: StarFlowPipeline, num_frames: int, seed: int) -> float:
    """When the video came, in seconds."""
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    pipeline(PROMPT, num_frames=num_frames, generator=generator, output_type="np")
    return time.perf_counter() - start


def measure(pipeline: StarFlowPipeline, num_frames: int, repeats: int) -> dict[str, Any]:
    """One row of the table: streamed and whole by turns, so that a busy machine slows both."""
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


def draw(rows: list[dict[str, Any]], fps: float, path: Path) -> None:
    """How much video there is to see, as time passes."""
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
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main() -> None:
    """Print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[17, 81, 241])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    pipeline = StarFlowPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    stream(pipeline, pipeline.config.num_frames, 0)  # the first call of anything is slower

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
    machine = describe_machine(pipeline.device)
    results = {"date": now(), "machine": machine, "model": arguments.model, "prompt": PROMPT, "rows": rows}
    with atomic_write(arguments.output / "streaming.json") as temporary:
        temporary.write_text(json.dumps(results | {"repeats": arguments.repeats}, indent=2) + "\n", encoding="utf-8")
    draw(rows, pipeline.config.fps, arguments.output / "streaming.png")


if __name__ == "__main__":
    main()
