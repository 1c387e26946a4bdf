"""Operations and milliseconds of one pass through the deep block, with everything settled before it in the cache.

    python benchmarks/passes.py
    python benchmarks/passes.py --batch-sizes 1 4 16 --tokens 1 16 80

An operation is a call of the dispatcher, views included; `kernels` are those that compute something. Counts do not
depend on the machine. Milliseconds are the least of the repeats, of the processor time of this thread, so that other
work on the machine disturbs them least: set OMP_NUM_THREADS=1. `ragged` windows start at another token in each sample.
"""

import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import harness
from starflow.flow.block import ConditionalGaussians
from starflow.pipeline.pipeline import StarFlowPipeline

HEADER = f"{'batch':>6}{'tokens':>8}{'':>8}{'operations':>12}{'kernels':>9}{'ms':>8}"
VIEWS = {
    *("alias", "as_strided", "detach", "expand", "permute", "promote_types", "select", "slice", "split"),
    *("split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view"),
    *("view_as_complex", "view_as_real"),
}


class Operations(TorchDispatchMode):
    """Counts operations, and those that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.kernels = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        self.kernels += str(function).split(".")[1] not in VIEWS
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def measure(pipeline: StarFlowPipeline, batch_size: int, num_tokens: int, repeats: int) -> list[dict[str, Any]]:
    """A row for windows at the same tokens, and for a batch one for ragged windows, halfway through the clip.

    The clip is as long as in training, or longer if the windows would not fit.
    """
    plan = pipeline.plan([harness.PROMPTS[0]] * batch_size).sampling
    height, width = plan.noise.shape[3:]
    num_frames = max(plan.num_frames, ceil((num_tokens + 1) / (height * width)))
    flow, grid = pipeline.flow, (num_frames, height, width)
    gaussians = flow.conditional(flow.num_blocks - 1, batch_size, grid, plan.text, plan.null_text, plan.guidance_weight)
    rows = []
    for ragged in (False, True)[: 1 + (batch_size > 1)]:
        start = (gaussians.num_tokens - num_tokens - ragged) // 2
        firsts = [start + index % 2 * ragged for index in range(batch_size)]
        windows = [range(first, first + num_tokens) for first in firsts]
        v = torch.randn(batch_size, gaussians.num_tokens, flow.config["latent_channels"])
        gaussians.evaluate(v, 0, start + 1)
        sweep = _sweep(gaussians, v, windows)
        sweep()
        with Operations() as operations:
            sweep()
        row = {"batch": batch_size, "tokens": num_tokens, "kind": "ragged" if ragged else "even"}
        milliseconds = 1000 * min(_thread_seconds(sweep) for _ in range(repeats))
        rows.append(row | {"operations": operations.count, "kernels": operations.kernels, "ms": milliseconds})
    return rows


def _sweep(gaussians: ConditionalGaussians, v: torch.Tensor, windows: Sequence[range]) -> Callable[[], Any]:
    return lambda: gaussians.evaluate_windows(v, windows)


def _thread_seconds(work: Callable[[], Any]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--batch-sizes", type=harness.positive, nargs="+", default=[1, 4], help="clips at once")
    parser.add_argument("--tokens", type=harness.positive, nargs="+", default=[1, 8, 16], help="of a window")
    parser.add_argument("--repeats", type=harness.positive, default=60, help="milliseconds are the least of these")
    parser.add_argument("--model", default="toyworld", help="a bundled model, a folder, or a hub id")
    options = parser.parse_args(args)
    pipeline = harness.load(options.model)
    print(HEADER)
    for batch_size in options.batch_sizes:
        for num_tokens in options.tokens:
            for row in measure(pipeline, batch_size, num_tokens, options.repeats):
                print(
                    f"{row['batch']:>6}{row['tokens']:>8}{row['kind']:>8}{row['operations']:>12}{row['kernels']:>9}"
                    f"{row['ms']:>8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    harness.run(main)
