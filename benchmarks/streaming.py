"""What the viewer of a stream sees, and where the milliseconds of a streamed frame go.

    python benchmarks/streaming.py -o streaming/ [--num-frames 17 81 241] [--repeats 3]

Prints two tables, and writes streaming.json and streaming.png. Streamed, each latent frame is decoded as soon as it is
sampled (`pipeline.stream`). Whole, each stage processes all latent frames before the next stage starts
(`pipeline(...)`), and the first frame is ready with the last. Seconds count from the prompt, with the model already
loaded and warm; they are medians over the repeats. A chunk is the video of one latent frame. `quick` rows are streamed
with `look_ahead=False`: no frame waits for the denoiser's look-ahead. The real-time factor is the seconds of making a
video over the seconds that it lasts. A player that begins at the first chunk, or half a second or a second later, stops
when the next chunk is late.
"""

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import harness
from clocks import Stopwatch, timed_videos
from starflow.pipeline.pipeline import StarFlowPipeline
from viewer import DELAYS, viewed

PROMPT = "a red circle orbits"
STAGES = ("text", "deep", "shallow", "denoiser", "vae")


def stream(pipeline: StarFlowPipeline, num_frames: int, seed: int, look_ahead: bool) -> list[float]:
    """Seconds from the prompt to each frame."""
    options: dict[str, Any] = {
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "np",
        "look_ahead": look_ahead,
    }
    start = time.perf_counter()
    with pipeline.stream(PROMPT, num_frames=num_frames, **options) as frames:
        return [time.perf_counter() - start for _ in frames]


def whole(pipeline: StarFlowPipeline, num_frames: int, seed: int) -> float:
    """Seconds from the prompt to the video."""
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    pipeline(PROMPT, num_frames=num_frames, generator=generator, output_type="np")
    return time.perf_counter() - start


def chunks_of(arrivals: Sequence[float], temporal_factor: int) -> list[tuple[float, int]]:
    """The seconds to each chunk and its number of frames: 1 in the first chunk, then the VAE's factor."""
    starts = [0, *range(1, len(arrivals), temporal_factor)]
    ends = [*starts[1:], len(arrivals)]
    return [(arrivals[start], end - start) for start, end in zip(starts, ends, strict=True)]


def stages(pipeline: StarFlowPipeline, num_frames: int, seed: int) -> dict[str, float]:
    """Milliseconds of each of `STAGES` per latent frame of a stream; `text` includes drawing the noise."""
    watch = Stopwatch()
    with watch.stage("text"):
        plan = pipeline.plan(PROMPT, num_frames=num_frames, generator=torch.Generator().manual_seed(seed))
    for _ in timed_videos(pipeline, plan, 1, watch):
        pass
    return {stage: 1000 * watch.seconds[stage] / plan.sampling.num_frames for stage in STAGES}


def measure(pipeline: StarFlowPipeline, num_frames: int, repeats: int) -> dict[str, Any]:
    """The figures of a length. All ways alternate, so that other work on the machine slows each of them."""
    streamed, quick, at_once, parts = [], [], [], []
    for seed in range(repeats):
        streamed.append(stream(pipeline, num_frames, seed, look_ahead=True))
        quick.append(stream(pipeline, num_frames, seed, look_ahead=False))
        at_once.append(whole(pipeline, num_frames, seed))
        parts.append(stages(pipeline, num_frames, seed))
    return {
        "num_frames": num_frames,
        "seconds_of_video": num_frames / pipeline.config.fps,
        "streamed": seen(pipeline, np.median(streamed, axis=0).tolist()),
        "quick": seen(pipeline, np.median(quick, axis=0).tolist()),
        "whole": {"total": float(np.median(at_once))},
        "stages_ms": {stage: float(np.median([each[stage] for each in parts])) for stage in STAGES},
    }


def seen(pipeline: StarFlowPipeline, arrivals: list[float]) -> dict[str, Any]:
    """What the viewer sees, by the seconds to each frame."""
    chunks = chunks_of(arrivals, pipeline.codec.temporal_factor)
    return {"arrivals": arrivals, "total": arrivals[-1], "viewer": viewed(chunks, pipeline.config.fps)}


def draw(rows: list[dict[str, Any]], fps: float) -> Figure:
    """Seconds of finished video over time."""
    figure = Figure(figsize=(4 * len(rows), 3.6), layout="constrained")
    for axes, row in zip(np.atleast_1d(figure.subplots(1, len(rows))), rows, strict=True):
        shown = (np.arange(row["num_frames"]) + 1) / fps
        total = row["whole"]["total"]
        for way in ("streamed", "quick"):
            axes.step([0, *row[way]["arrivals"]], [0, *shown], where="post", label=way)
        axes.step([0, total], [0, shown[-1]], where="post", label="whole")
        axes.plot([0, shown[-1]], [0, shown[-1]], ":", color="0.5", label="as fast as it plays")
        axes.set_title(f"{row['num_frames']} frames")
        axes.set_xlabel("seconds since the prompt")
        axes.set_ylabel("seconds of finished video")
        axes.legend(frameon=False)
    return figure


def print_viewer(rows: list[dict[str, Any]]) -> None:
    """The table of what the viewer sees."""
    delays = [f"stops +{delay:g} s" for delay in DELAYS]
    names = ("of video, s", "first, s", "gap p50, s", "p95, s", "made, s", "whole, s", "real-time", *delays)
    print(f"{'frames':>8}{'':>10}" + "".join(f"{name:>13}" for name in names))
    for row, way in product(rows, ("streamed", "quick")):
        viewer = row[way]["viewer"]
        seconds = (row["seconds_of_video"], viewer["first_chunk_s"], viewer["gap_p50_s"], viewer["gap_p95_s"])
        totals = (row[way]["total"], row["whole"]["total"], viewer["real_time_factor"])
        stops = "".join(f"{viewer[f'stops_after_{delay:g}_s']:>13}" for delay in DELAYS)
        print(f"{row['num_frames']:>8}{way:>10}" + "".join(f"{value:>13.3f}" for value in (*seconds, *totals)) + stops)


def print_stages(rows: list[dict[str, Any]]) -> None:
    """The table of milliseconds per latent frame."""
    print("\nmilliseconds of a latent frame, streamed")
    print(f"{'frames':>8}" + "".join(f"{stage:>10}" for stage in (*STAGES, "sum")))
    for row in rows:
        values = [row["stages_ms"][stage] for stage in STAGES]
        print(f"{row['num_frames']:>8}" + "".join(f"{value:>10.1f}" for value in (*values, sum(values))))


def main(args: Sequence[str] | None = None) -> None:
    """Print the tables, write the files."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[17, 81, 241])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model)
    stream(pipeline, pipeline.config.num_frames, 0, look_ahead=True)  # the first call is slower

    rows = [measure(pipeline, num_frames, arguments.repeats) for num_frames in arguments.num_frames]
    print_viewer(rows)
    print_stages(rows)
    results = {"model": arguments.model, "prompt": PROMPT, "repeats": arguments.repeats, "rows": rows}
    harness.write_results(arguments.output / "streaming.json", pipeline.device, **results)
    harness.save_figure(draw(rows, pipeline.config.fps), arguments.output / "streaming.png")


if __name__ == "__main__":
    harness.run(main)
