"""Run one stage: `python benchmarks/gpu/stage.py NAME [--tiny] [--limit SECONDS] FILE.json`."""

import argparse
import importlib
import sys
from math import inf
from pathlib import Path

import torch

from measure import Results


def main() -> None:
    """Measure what the stage measures; the exit status is 1 if anything failed, after all else was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=float, default=inf, help="seconds after which the stage is ended")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.tiny else "cuda")
    results = Results(arguments.json, device, arguments.limit)
    with results.attempt(arguments.name):
        importlib.import_module(f"stages.{arguments.name}").measure(results, arguments.tiny)
    sys.exit(bool(results.failed))


if __name__ == "__main__":
    main()
