"""The memory that `starflow generate` takes, over the length of the video.

    python benchmarks/memory.py -o memory/ [--seconds 5 30 120]

Prints a table, and writes memory.json and memory.png. The command makes each video in a process of its own, on the CPU.
Its resident memory is measured after the model is loaded, at the peak, and over time.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import psutil

import harness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROMPT = "a red circle orbits"
EVERY = 0.2  # seconds between two measurements
MIB = 2**20


def generate(arguments: list[str]) -> None:
    """Run `starflow generate`; print as JSON the memory that it took, in MiB."""
    from starflow.cli import generate as command
    from starflow.cli.main import run

    load_pipeline, loaded = command.load_pipeline, []

    def load_and_measure(*given: Any) -> Any:
        pipeline = load_pipeline(*given)
        loaded.append(psutil.Process().memory_info().rss / MIB)
        return pipeline

    with patch.object(command, "load_pipeline", load_and_measure):
        status = run(["generate", *arguments])
    if status:
        sys.exit(status)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"loaded": loaded[0], "peak": peak / (MIB if sys.platform == "darwin" else 1024)}))


def measure(model: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Make a video in a process of its own and measure its memory while it runs."""
    made = ["--model", model, "--device", "cpu", "--seconds", str(seconds), "-o", str(folder / f"{seconds:g}.mp4")]
    start = time.perf_counter()
    curve = []
    with subprocess.Popen([sys.executable, __file__, "generate", PROMPT, *made], stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):  # if it has just ended, this raises or is 0
                if resident := psutil.Process(process.pid).memory_info().rss:
                    curve.append((time.perf_counter() - start, resident / MIB))
            time.sleep(EVERY)
        assert process.stdout is not None
        said = process.stdout.read().decode()
    if process.returncode:
        sys.exit(process.returncode)
    memory = json.loads(said.splitlines()[-1])
    return {"seconds_of_video": seconds, "took": time.perf_counter() - start, **memory, "curve": curve}


def draw(rows: list[dict[str, Any]]) -> "Figure":
    """Memory over the time that a video takes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        times, memory = zip(*row["curve"], strict=True)
        axes.plot(times, memory, label=f"{row['seconds_of_video']:g} s of video")
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(0)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Print the table, write the files."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 30, 120], help="lengths of videos")
    arguments = parser.parse_args()
    print(f"{'of video, s':>12}{'loaded, MiB':>13}{'peak, MiB':>11}{'increase, MiB':>15}{'took, s':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in arguments.seconds:
            row = measure(arguments.model, seconds, Path(folder))
            rows.append(row)
            increase = row["peak"] - row["loaded"]
            print(
                f"{seconds:>12g}{row['loaded']:>13.0f}{row['peak']:>11.0f}{increase:>15.0f}{row['took']:>9.1f}",
                flush=True,
            )
    # Only these import torch: the memory of this process when it starts another counts for the peak of that one.
    harness.write_results(arguments.output / "memory.json", model=arguments.model, prompt=PROMPT, rows=rows)
    harness.save_figure(draw(rows), arguments.output / "memory.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["generate"]:
        generate(sys.argv[2:])
    else:
        harness.run(main)
