"""The memory that `starflow generate` takes, however long the video.

    python benchmarks/memory.py -o memory/ [--seconds 5 30 120]

Prints a table, and writes memory.json and memory.png. Each video is made by the command in a process of its own. What
is measured is resident memory, on the CPU: when the model has been loaded, at its peak, and as time passes.
"""

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PROMPT = "a red circle orbits"
EVERY = 0.2  # seconds, between two looks at the memory
MIB = 2**20


def generate(arguments: list[str]) -> None:
    """Run `starflow generate`; print as JSON what memory it took, in MiB."""
    command = importlib.import_module("starflow.cli.generate")
    main = importlib.import_module("starflow.cli.main")
    load_pipeline, loaded = command.load_pipeline, []

    def load_and_look(*given: Any) -> Any:
        pipeline = load_pipeline(*given)
        loaded.append(psutil.Process().memory_info().rss / MIB)
        return pipeline

    command.load_pipeline = load_and_look
    status = main.run(["generate", *arguments])
    if status:
        sys.exit(status)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"loaded": loaded[0], "peak": peak / (MIB if sys.platform == "darwin" else 1024)}))


def measure(model: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Make a video in a process of its own and look at its memory while it runs."""
    made = ["--model", model, "--device", "cpu", "--seconds", str(seconds), "-o", str(folder / f"{seconds:g}.mp4")]
    start = time.perf_counter()
    curve = []
    with subprocess.Popen([sys.executable, __file__, "generate", PROMPT, *made], stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):  # it may have just ended, and may then seem to hold nothing
                if resident := psutil.Process(process.pid).memory_info().rss:
                    curve.append((time.perf_counter() - start, resident / MIB))
            time.sleep(EVERY)
        assert process.stdout is not None
        said = process.stdout.read().decode()
    if process.returncode:
        sys.exit(process.returncode)
    memory = json.loads(said.splitlines()[-1])
    return {"seconds_of_video": seconds, "took": time.perf_counter() - start, **memory, "curve": curve}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Memory over the time that a video takes."""
    from matplotlib.figure import Figure

    from starflow.media.files import atomic_write

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        times, memory = zip(*row["curve"], strict=True)
        axes.plot(times, memory, label=f"{row['seconds_of_video']:g} s of video")
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main() -> None:
    """Print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 30, 120], help="lengths of videos")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

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
    # Not before: what this process holds when it starts another counts as that one's peak.
    import torch

    from starflow.evaluation.machine import describe_machine, now
    from starflow.media.files import atomic_write

    machine = describe_machine(torch.device("cpu"))
    results = {"date": now(), "machine": machine, "model": arguments.model, "prompt": PROMPT, "rows": rows}
    with atomic_write(arguments.output / "memory.json") as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    draw(rows, arguments.output / "memory.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["generate"]:
        generate(sys.argv[2:])
    else:
        main()
