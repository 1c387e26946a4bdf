"""Whether it helps on this CPU to run the deep block of frame n + 1 beside the stages that follow it, of frame n.

    python benchmarks/pipelining.py [--num-frames 17 81] [--repeats 5] [-o pipelining.json]

One stage after the other, as `pipeline.stream` does it, with all threads in every operation and with half of them;
against two Python threads with half of them each, deep and shallow blocks in one, denoiser and VAE in the other. By
turns; medians.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from statistics import median
from threading import Thread

import torch
from torch import Tensor

from starflow.benchmark.sampling import PROMPTS
from starflow.evaluation.machine import describe_machine
from starflow.media.files import atomic_write
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import denoised, restored, sampled


def stream(pipeline: StarFlowPipeline, num_frames: int, *, num_threads: int, beside: bool) -> float:
    """Seconds from the plan to the last frame, each latent frame going on as soon as it is there."""
    threads = torch.get_num_threads()
    plan = pipeline.plan(PROMPTS[0], num_frames=num_frames, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(num_threads)
    start = time.perf_counter()
    noisy = sampled(pipeline.flow, plan, 1, lambda *_: None)
    noisy = in_thread(noisy, num_threads) if beside else noisy
    clean = denoised(pipeline.flow, pipeline.denoiser, pipeline.config.noise_std, noisy, plan.text)
    for _ in pipeline.codec.stream_decode(restored(clean, plan.given)):
        pass
    seconds = time.perf_counter() - start
    torch.set_num_threads(threads)
    return seconds


def in_thread(items: Iterator[Tensor], num_threads: int) -> Iterator[Tensor]:
    """The same items, made in a thread of their own, at most a few ahead of what takes them."""
    queue: Queue[Tensor | None] = Queue(maxsize=4)

    def work() -> None:
        torch.set_num_threads(num_threads)
        for item in items:
            queue.put(item)
        queue.put(None)

    Thread(target=work, daemon=True).start()
    while (item := queue.get()) is not None:
        yield item


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[17, 81])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pipeline = StarFlowPipeline.from_pretrained(arguments.model)
    rows = []
    threads, half = torch.get_num_threads(), max(1, torch.get_num_threads() // 2)
    ways = {
        f"one after the other, {threads} threads": {"num_threads": threads, "beside": False},
        f"one after the other, {half}": {"num_threads": half, "beside": False},
        f"beside each other, {half} each": {"num_threads": half, "beside": True},
    }
    for num_frames in arguments.num_frames:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                seconds[name].append(stream(pipeline, num_frames, **way))
        for name, each in seconds.items():
            rows.append({"num_frames": num_frames, "way": name, "seconds": median(each)})
            print(f"{num_frames:>5} frames  {name:<36}{median(each):>8.2f} s", flush=True)
    if arguments.output is not None:
        about = {"machine": describe_machine(pipeline.device), "model": arguments.model, "rows": rows}
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
