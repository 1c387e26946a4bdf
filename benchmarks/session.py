"""Seconds and memory of the steps of a session, early and late.

    python benchmarks/session.py [--model MODEL] [--steps 2500] [--rows 5]

Plays random actions, if the model takes actions, and prints a row for each stretch of steps: the median and the largest
time of a step, the number of sweeps of the deep block's solver in a step, and the memory of the process at the end.
"""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import harness
from starflow.flow.actions import ActionSpace
from starflow.pipeline.session import Session

PROMPT = "a red circle orbits"


def random_action(space: ActionSpace | None) -> list[float] | None:
    """A random action, None if the model takes none."""
    if space is None:
        return None
    if space.is_discrete:
        return [random.randrange(size) for size in space.sizes]
    return [random.uniform(low, high) for low, high in zip(space.low, space.high, strict=True)]


def measure(session: Session, space: ActionSpace | None, first: int, num_steps: int) -> dict[str, Any]:
    """One row of the table."""
    seconds, sweeps = [], session.report.deep.sweeps
    for _ in range(num_steps):
        action = random_action(space)
        start = time.perf_counter()
        session.step(action)
        seconds.append(time.perf_counter() - start)
    return {
        "first_step": first,
        "last_step": first + num_steps - 1,
        "median_ms": 1e3 * float(np.median(seconds)),
        "largest_ms": 1e3 * max(seconds),
        "sweeps": (session.report.deep.sweeps - sweeps) / num_steps,
        "resident_mb": psutil.Process().memory_info().rss / 1e6,
    }


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--steps", type=harness.positive, default=2500)
    parser.add_argument("--rows", type=harness.positive, default=5)
    parser.add_argument("--json", type=Path, help="file for the rows as JSON")
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model)
    random.seed(0)
    session = pipeline.session(PROMPT, generator=torch.Generator().manual_seed(0))
    space, num_steps = pipeline.flow.action_space, max(1, arguments.steps // arguments.rows)
    print(f"{session.frames_per_step} frames per step, {session.fps:g} frames per second of video")
    print(f"{'steps':>14}{'median, ms':>12}{'largest, ms':>13}{'sweeps':>8}{'memory, MB':>12}")
    rows = []
    for index in range(arguments.rows):
        rows.append(row := measure(session, space, 1 + index * num_steps, num_steps))
        print(
            f"{row['first_step']:>7}–{row['last_step']:<6}{row['median_ms']:>12.1f}{row['largest_ms']:>13.1f}"
            f"{row['sweeps']:>8.1f}{row['resident_mb']:>12.0f}",
            flush=True,
        )
    if arguments.json:
        harness.write_results(arguments.json, pipeline.device, model=arguments.model, rows=rows)


if __name__ == "__main__":
    harness.run(main)
