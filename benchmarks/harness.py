"""What the benchmark scripts share: their options, loading a model, progress, errors, and writing results.

Importing this module does not import torch: `memory.py` and `conversion.py` start processes whose memory they measure.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starflow.cli.common import DTYPES, load_pipeline
from starflow.cli.main import one_line
from starflow.cli.quiet import quiet_libraries
from starflow.errors import StarflowError, UsageError
from starflow.media.files import atomic_write

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from starflow.pipeline.pipeline import StarFlowPipeline

quiet_libraries()  # before the scripts import the libraries, which print warnings as they load

PROMPTS = (
    "a red circle moves right",
    "a large blue square bounces",
    "a small green triangle orbits",
    "a yellow circle grows",
)


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a script. Like `starflow`, it ends with one line and exit status 1 or 2 on a user's error."""
    try:
        main()
    except (StarflowError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose `--help` begins with the docstring of the script."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options `--model`, `--device` and `--dtype`: the arguments of `load`."""
    parser.add_argument("--model", default="toyworld", help="a bundled model, a folder, or a hub id")
    parser.add_argument("--device", help="cpu, cuda, mps, … [default: the best there is]")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the weights")


def positive(text: str) -> int:
    """The type of an option that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def load(model: str, device: str | None = "cpu", dtype: str = "float32") -> "StarFlowPipeline":
    """A model without progress bars, on the best device there is if `device` is None."""
    pipeline = load_pipeline(model, device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def show_progress(message: str) -> None:
    """Show what is being measured, on one line of a terminal that the next message replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}\r", end="", file=sys.stderr, flush=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_results(path: Path, device: "str | torch.device" = "cpu", **results: Any) -> None:
    """Write `results` as JSON, after the date and the machine."""
    import torch

    from starflow.evaluation.machine import describe_machine, now

    write_json(path, {"date": now(), "machine": describe_machine(torch.device(device)), **results})


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG of a figure, its axes without their upper and right lines."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
