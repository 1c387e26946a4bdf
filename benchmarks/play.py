"""How a model plays: frames per second, control to picture, the first frame, and what a step's milliseconds go to.

    python benchmarks/play.py --model MODEL [--seconds 300] [--steps 100]

First, a session makes steps with random actions, and the parts of a step are timed, as well as ways to encode a frame.
Then `starflow play` is started, a real Chromium opens its page, and random keys of the model's controls are held for
0.1 to 0.6 seconds. The page itself measures: "control to picture" begins when the browser gets the key, and ends when
the first frame with the action is drawn. Other programs on the machine make all medians larger; they disturb the least
CPU time of a part little.
"""

import io
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

import harness
from browser import chromium
from session import random_action
from starflow.encoders.video import DecoderStream
from starflow.errors import StarflowError
from starflow.flow.denoiser_stream import DenoiserStream
from starflow.media.frames import Frames
from starflow.pipeline import session as session_module
from starflow.pipeline.session import Session
from starflow.pipeline.starts import Start, load_start, starts_of
from starflow.sampling import rollout as rollout_module
from starflow.sampling.rollout import Rollout
from starflow.weights.models import resolve_model

WARM_UP = 10  # steps
PAUSE = (0.1, 0.6)  # seconds that a key is held, or none is
OBSERVE = """
window.measured = { "frame": [], "control to picture": [] };
new PerformanceObserver((list) => {
  for (const { name, startTime, duration } of list.getEntries()) window.measured[name]?.push([startTime, duration]);
}).observe({ type: "measure" });
"""


# --- a step ----------------------------------------------------------------------------------------------------------


class Clock:
    """Milliseconds of named parts: of the clock, and of the CPUs."""

    def __init__(self) -> None:
        self.parts: dict[str, list[NDArray[np.float64]]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter(), time.process_time()
        yield
        end = time.perf_counter(), time.process_time()
        self.parts[name].append(1e3 * (np.array(end) - start))

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which returns a list if it is a generator."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                result = function(*args, **kwargs)
                return list(result) if isinstance(result, Iterator) else result

        return call


def profile(session: Session, actions: Sequence[Any]) -> Clock:
    """The parts of a step with each action, and the surprise after it."""
    clock = Clock()
    with (
        patch.object(Rollout, "step", clock.timed("flow", Rollout.step)),
        patch.object(rollout_module, "invert_shallow", clock.timed("shallow blocks", rollout_module.invert_shallow)),
        patch.object(DenoiserStream, "__call__", clock.timed("denoiser", DenoiserStream.__call__)),
        patch.object(DecoderStream, "__call__", clock.timed("decoder", DecoderStream.__call__)),
        patch.object(session_module, "to_frames", clock.timed("pixels", session_module.to_frames)),
    ):
        for action in actions:
            with clock.part("step"):
                session.step(action)
    for action in actions:
        session.step(action)
        with clock.part("surprise, if it is shown"):
            session.surprise()
    flow, shallow = clock.parts.pop("flow"), clock.parts["shallow blocks"]
    clock.parts["deep block"] = [both - part for both, part in zip(flow, shallow, strict=True)]
    return clock


def encodings(frames: Frames) -> tuple[Clock, dict[str, int]]:
    """Ways to encode a frame, and the bytes that each takes."""

    def encode(kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(frames[0]).save(file, kind, **options)
        return file.getvalue()

    ways: dict[str, Callable[[], bytes]] = {
        "raw": lambda: frames[0].tobytes(),
        "PNG": lambda: encode("PNG", compress_level=1),
        "WebP": lambda: encode("WEBP", lossless=True, method=0),
    }
    clock = Clock()
    for name, way in ways.items():
        for _ in range(20):
            with clock.part(name):
                way()
    return clock, {name: len(way()) for name, way in ways.items()}


def measure_steps(model: str, num_steps: int) -> dict[str, Any]:
    """Print the tables of a step, and return their figures."""
    pipeline = harness.load(model)
    paths = starts_of(resolve_model(model))
    start = load_start(paths[0]) if paths else Start("", "a red circle orbits")
    session = start.session(pipeline, generator=torch.Generator().manual_seed(0))
    random.seed(0)
    actions = [random_action(pipeline.flow.action_space) for _ in range(num_steps)]
    for action in actions[:WARM_UP]:
        session.step(action)
    parts = profile(session, actions)
    figures = show(parts, "part of a step")
    clock, sizes = encodings(session.frames)
    print()
    encoded = show(clock, "a frame as")
    print(", ".join(f"{name}: {size} bytes" for name, size in sizes.items()))
    return {"parts": figures, "encodings": encoded, "bytes": sizes}


def show(clock: Clock, title: str) -> dict[str, dict[str, float]]:
    """Print a row for each part, the longest first, and return the figures."""
    print(f"{title:26}{'median, ms':>12}{'least, ms':>12}{'least CPU, ms':>15}")
    figures = {}
    for name, times in sorted(clock.parts.items(), key=lambda part: -np.median(part[1], axis=0)[0]):
        (median, _), (least, least_cpu) = np.median(times, axis=0), np.min(times, axis=0)
        print(f"{name:26}{median:>12.2f}{least:>12.2f}{least_cpu:>15.2f}")
        figures[name] = {"median_ms": float(median), "least_ms": float(least), "least_cpu_ms": float(least_cpu)}
    return figures


# --- a browser -------------------------------------------------------------------------------------------------------


@contextmanager
def playing(model: str) -> Iterator[tuple[str, float]]:
    """`starflow play`: its URL, and when it was started."""
    command = [sys.executable, "-m", "starflow", "play", model, "--port", "0", "--no-open"]
    start = time.time()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+?(?=[; ]|$)", line)
        if found is None:
            raise StarflowError(f"starflow play failed: {line.strip()}")
        yield found[0], start
    finally:
        process.terminate()
        process.wait()


def press_keys(page: Page, seconds: float) -> None:
    """Hold random keys of the controls, for random times."""
    keys = [key for key in page.locator("#controls button").evaluate_all("all => all.map((b) => b.dataset.key)") if key]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        key = random.choice(keys) if keys else None
        if key is not None:
            page.keyboard.down(key)
        page.wait_for_timeout(1e3 * random.uniform(*PAUSE))
        if key is not None:
            page.keyboard.up(key)
            page.wait_for_timeout(1e3 * random.uniform(*PAUSE))


def measure_play(model: str, seconds: float) -> dict[str, Any]:
    """Print what a player sees, and return the figures."""
    with playing(model) as (url, start), chromium() as browser:
        page = browser.new_page()
        page.add_init_script(OBSERVE)
        page.goto(url, wait_until="commit", timeout=120_000)
        while not page.evaluate("window.measured?.frame.length"):
            page.wait_for_timeout(10)
        origin, (first, _) = page.evaluate("[performance.timeOrigin, window.measured.frame[0]]")
        press_keys(page, seconds)
        measured = page.evaluate("window.measured")
    times = np.array([begin for begin, _ in measured["frame"]]) / 1e3
    latencies = [duration for _, duration in measured["control to picture"]]
    found = {
        "seconds": seconds,
        "first_frame_seconds": (origin + first) / 1e3 - start,
        "frames_per_second": (len(times) - 1) / (times[-1] - times[0]),
        "longest_frame_ms": 1e3 * float(np.diff(times).max()),
        "num_controls": len(latencies),
        "latency_ms": dict(zip(("median", "95 %"), np.percentile(latencies, [50, 95]).tolist(), strict=True))
        if latencies
        else None,
    }
    print(f"\nthe first frame, from the command {found['first_frame_seconds']:6.1f} s")
    print(f"frames per second                 {found['frames_per_second']:6.1f}, over {times[-1] - times[0]:.0f} s")
    print(f"longest time between two frames   {found['longest_frame_ms']:6.0f} ms")
    if latencies:
        median, most = found["latency_ms"].values()
        print(f"control to picture                {median:6.0f} ms (median of {len(latencies)}), 95 % {most:.0f} ms")
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--model", default="toyworld", help="a bundled model, or a folder")
    parser.add_argument("--seconds", type=harness.positive, default=300, help="of playing in the browser")
    parser.add_argument("--steps", type=harness.positive, default=100, help="whose parts are timed")
    parser.add_argument("--json", type=Path, help="file for the figures as JSON")
    arguments = parser.parse_args(args)
    steps = measure_steps(arguments.model, arguments.steps)
    play = measure_play(arguments.model, arguments.seconds)
    if arguments.json:
        harness.write_results(arguments.json, model=arguments.model, steps=steps, play=play)


if __name__ == "__main__":
    harness.run(main)
