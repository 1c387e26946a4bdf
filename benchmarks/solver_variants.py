"""Warm starts and accelerations of the sliding window, compared at equal tolerance by what they cost in sweeps.

    python benchmarks/solver_variants.py -o variants.json [--tolerance 0.1] [--window 16] [--num-frames 17 49]

Sweeps and evaluations are counted, not timed, so that a busy machine changes nothing. All variants keep the certificate
of `starflow.sampling.sliding`; what won is what that module does. Clips are made one by one, from four captions, in
the deep block only, with the model's guidance; past the model's length through its rolling window.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starflow.benchmark.sampling import PROMPTS
from starflow.media.files import atomic_write
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import SamplingReport, deep_frames
from starflow.sampling.solvers import Gaussians, Progress, Solution


@dataclass
class State:
    """One clip on its way: values, noise, and the Gaussians `mu`, `sigma` as last evaluated, all `(1, N, D)`."""

    v: Tensor
    z: Tensor
    mu: Tensor
    sigma: Tensor
    frame_tokens: int


Start = Callable[[State, int, int], Tensor]
"""Values that the tokens `first … last - 1` start from, `(1, n, D)`."""


def noise(state: State, first: int, last: int) -> Tensor:
    return state.z[:, first:last]


def with_previous_frame(rule: Start, frames: int = 1) -> Start:
    """A rule that needs so many frames before; where there are none, the noise."""

    def start(state: State, first: int, last: int) -> Tensor:
        begin = max(first, min(last, frames * state.frame_tokens))
        return torch.cat([noise(state, first, begin), rule(state, begin, last)], dim=1)

    return start


def previous_values(state: State, first: int, last: int) -> Tensor:
    return state.v[:, first - state.frame_tokens : last - state.frame_tokens]


def previous_gaussians(state: State, first: int, last: int) -> Tensor:
    before = slice(first - state.frame_tokens, last - state.frame_tokens)
    return state.mu[:, before] + state.sigma[:, before] * state.z[:, first:last]


def extrapolated(state: State, first: int, last: int) -> Tensor:
    older = state.v[:, first - 2 * state.frame_tokens : last - 2 * state.frame_tokens]
    return 2 * previous_values(state, first, last) - older


def tail(state: State, first: int, last: int) -> Tensor:
    """The Gaussian of the last token of the sweep before, with each token's own noise."""
    if first == 0:
        return noise(state, first, last)
    return state.mu[:, first - 1 : first] + state.sigma[:, first - 1 : first] * state.z[:, first:last]


STARTS: dict[str, Start] = {
    "noise": noise,
    "previous frame's values": with_previous_frame(previous_values),
    "previous frame's mu + sigma · own z": with_previous_frame(previous_gaussians),
    "linear extrapolation in time": with_previous_frame(extrapolated, 2),
    "previous sweep's tail": tail,
}


class Jacobi:
    """No acceleration: a token becomes what the sweep made of it."""

    def __call__(self, left: int, old: Tensor, new: Tensor) -> Tensor:
        return new


class Anderson:
    """Anderson mixing of so many sweeps before, of the tokens that they have in common with this one.

    Safeguard: not used, and forgotten, when the residual has grown.
    """

    def __init__(self, depth: int) -> None:
        self.depth, self.history, self.size = depth, [], float("inf")  # type: ignore[var-annotated]

    def __call__(self, left: int, old: Tensor, new: Tensor) -> Tensor:
        size = (new - old).abs().max().item()
        if size > self.size:
            self.history = []
        self.size = size
        out = new.clone()
        width = min([old.shape[1], *(first + o.shape[1] - left for first, o, _ in self.history)])
        if self.history and width > 1:
            now, change = new[0, :width], (new - old)[0, :width]
            news = torch.stack([n[0, left - first :][:width] for first, _, n in self.history])
            olds = torch.stack([o[0, left - first :][:width] for first, o, _ in self.history])
            differences = (change - (news - olds)).flatten(1).T
            weights = torch.linalg.lstsq(differences, change.reshape(-1, 1), driver="gelsd").solution[:, 0]
            out[0, :width] = now - torch.einsum("h,hnd->nd", weights, now - news)
        self.history = [*self.history, (left, old.clone(), new.clone())][-self.depth :]
        return out


class DiagonalNewton:
    """Quasi-Newton by a scan: by channel, a token's answer to the one before it is the slope of the last two sweeps."""

    def __init__(self) -> None:
        self.last: tuple[int, Tensor, Tensor] | None = None

    def __call__(self, left: int, old: Tensor, new: Tensor) -> Tensor:
        out = new.clone()
        if self.last is not None:
            first, old_before, new_before = self.last
            shared = min(old.shape[1], first + old_before.shape[1] - left)
            o, n = old_before[:, left - first :], new_before[:, left - first :]
            for index in range(1, shared):
                moved = old[:, index - 1] - o[:, index - 1]
                slope = (new[:, index] - n[:, index]) / torch.where(moved.abs() < 1e-3, torch.inf, moved)
                step = out[:, index - 1] - old[:, index - 1]
                out[:, index] += slope.clamp(-0.9, 0.9) * step
        self.last = (left, old.clone(), new.clone())
        return out


def constant(window: int) -> Callable[[int, int], int]:
    return lambda width, run: window


def adaptive(largest: int) -> Callable[[int, int], int]:
    """Twice as wide after a sweep that settled half the window, half as wide after one that settled a token or two."""

    def schedule(width: int, run: int) -> int:
        if run > width // 2:
            return min(2 * width, largest)
        return max(width // 2, 4) if run <= 2 else width

    return schedule


@dataclass
class Variant:
    """The sliding window for a single clip, with its parts exchangeable; a `starflow.sampling.solvers.Solver`."""

    window: int
    tolerance: float
    start: Start = STARTS["previous frame's values"]
    accelerate: Callable[[], Callable[[int, Tensor, Tensor], Tensor]] = Jacobi
    schedule: Callable[[int, int], int] | None = None

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        state = State(v, z, torch.zeros_like(v), torch.ones_like(v), frame_tokens)
        schedule, mix = self.schedule or constant(self.window), self.accelerate()
        left = right = start
        width = self.window
        while left < stop:
            end = min(max(left + width, right), stop)
            v[:, right:end] = self.start(state, right, end)
            right = end
            now = slice(left, right)
            state.mu[:, now], state.sigma[:, now] = gaussians.evaluate(v, left, right)
            old, new = v[:, now].clone(), state.mu[:, now] + state.sigma[:, now] * z[:, now]
            residuals = ((old - new).abs() / state.sigma[:, now]).amax(-1)[0]
            run = int((residuals <= self.tolerance).cumprod(0).sum())
            mixed = mix(left, old, new)
            v[:, now] = torch.cat([old[:, :run], new[:, run : run + 1], mixed[:, run + 1 :]], dim=1)
            settled = min(run + 1, right - left)
            done = Solution(1, right - left, settled, residuals[:run].max().item() if run else 0.0)
            left += settled
            width = schedule(width, settled)
            yield Progress(left, done)


def variants(window: int, tolerance: float) -> dict[str, Variant]:
    """What is compared, by name."""
    found = {f"start: {name}": Variant(window, tolerance, start) for name, start in STARTS.items()}
    found |= {f"window {size}": Variant(size, tolerance) for size in (4, 8, 16, 32, 64)}
    found["window 8 … 32, as it goes"] = Variant(8, tolerance, schedule=adaptive(32))
    found["Anderson, depth 1"] = Variant(window, tolerance, accelerate=lambda: Anderson(1))
    found["Anderson, depth 2"] = Variant(window, tolerance, accelerate=lambda: Anderson(2))
    found["diagonal quasi-Newton by scan"] = Variant(window, tolerance, accelerate=DiagonalNewton)
    return found


def count(pipeline: StarFlowPipeline, num_frames: int, prompt: str, seed: int, solver: Variant) -> Solution:
    """What the deep block's solver does for one clip."""
    plan = pipeline.plan(prompt, num_frames=num_frames, generator=torch.Generator().manual_seed(seed))
    noise, report = plan.noise.permute(0, 1, 3, 4, 2), SamplingReport()
    settings = (plan.guidance_scale, None, plan.window, solver, report, plan.later_text)
    for _ in deep_frames(pipeline.flow, noise, plan.text, plan.null_text, *settings):
        pass
    return report.deep


def main() -> None:
    """Print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[17, 49])
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--window", type=int, default=16)
    arguments = parser.parse_args()
    pipeline = StarFlowPipeline.from_pretrained(arguments.model)
    rows: list[dict[str, Any]] = []
    print(f"{'variant':<40}{'frames':>7}{'sweeps per latent frame':>25}{'evaluations per token':>23}")
    for num_frames in arguments.num_frames:
        for name, variant in variants(arguments.window, arguments.tolerance).items():
            total = sum(
                (count(pipeline, num_frames, prompt, seed, variant) for seed, prompt in enumerate(PROMPTS)), Solution()
            )
            frames = len(PROMPTS) * pipeline.codec.num_latent_frames(num_frames)
            row = {
                "variant": name,
                "num_frames": num_frames,
                "sweeps_per_latent_frame": total.sweeps / frames,
                "evaluations_per_token": total.evaluations / total.tokens,
                "max_residual": total.max_residual,
            }
            rows.append(row)
            print(
                f"{name:<40}{num_frames:>7}{row['sweeps_per_latent_frame']:>25.2f}{row['evaluations_per_token']:>23.2f}",
                flush=True,
            )
    about = {"model": arguments.model, "tolerance": arguments.tolerance, "window": arguments.window}
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
