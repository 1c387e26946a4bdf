"""Whether sweeps with matrices in bfloat16 would pay, if a token still settles only in a sweep in float32.

    python benchmarks/half_precision.py

First: the residuals, in float32, of a clip that was sampled token by token with the matrices of the deep block's layers
in bfloat16 (everything else in float32). Then: schedules that repeat so many sweeps in bfloat16, which settle nothing,
and so many in float32, with the sweeps and the evaluations per token of each kind until the clip has settled. Counts
do not depend on the machine.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import harness
from starflow.flow.block import AffineBlock, ConditionalGaussians
from starflow.flow.transformer import MATRICES
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import sequential

SCHEDULES = ((0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 2))  # sweeps in bfloat16, then in float32


class HalfLinear(nn.Module):
    """A linear layer whose matrix product is in bfloat16; its input and output are in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight.bfloat16(), linear.bias.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight, self.bias).float()


def with_half_matrices(block: AffineBlock) -> AffineBlock:
    """A copy of a block with the four matrices of each layer in bfloat16."""
    half = deepcopy(block)
    for layer in half.transformer.layers:
        for name in MATRICES:
            layer.set_submodule(name, HalfLinear(layer.get_submodule(name)))  # type: ignore[arg-type]
    return half


class Clip:
    """The noise of a clip, and its Gaussians in float32 and with matrices in bfloat16, which share a cache."""

    def __init__(self, pipeline: StarFlowPipeline, seed: int) -> None:
        flow = pipeline.flow
        generator = torch.Generator().manual_seed(seed)
        plan = pipeline.plan(harness.PROMPTS[seed % len(harness.PROMPTS)], generator=generator).sampling
        grid = (plan.num_frames, *plan.noise.shape[3:])
        self.frame_tokens = grid[1] * grid[2]
        self.z = flow.to_tokens(plan.noise.permute(0, 1, 3, 4, 2), flow.num_blocks - 1)
        self.gaussians: ConditionalGaussians = flow.conditional(
            flow.num_blocks - 1, 1, grid, plan.text, plan.null_text, plan.guidance_weight
        )
        self.blocks = {False: flow.deep, True: with_half_matrices(flow.deep)}

    def target(self, v: Tensor, start: int, stop: int, half: bool = False) -> tuple[Tensor, Tensor]:
        """`mu + sigma · z` of tokens and the residuals of their values, `(1, n, D)` and `(n,)`."""
        self.gaussians.block = self.blocks[half]
        mu, sigma = self.gaussians.evaluate(v, start, stop)
        new = mu + sigma * self.z[:, start:stop]
        return new, ((v[:, start:stop] - new).abs() / sigma).amax(-1)[0]

    def residuals_of_half(self) -> Tensor:
        """The residuals `(N,)` in float32 of the clip that is sampled token by token in bfloat16."""
        self.gaussians.block = self.blocks[True]
        v, stop = self.z.clone(), self.z.shape[1]
        for _ in sequential(self.gaussians, self.z, v, 0, stop, self.frame_tokens):
            pass
        return self.target(v, 0, stop)[1]

    def solve(self, window: int, tolerance: float, num_half: int, num_full: int) -> dict[bool, list[int]]:
        """Sliding windows on a schedule. Returns the tokens of each sweep in bfloat16 (True) and in float32 (False)."""
        v, stop, left, right = self.z.clone(), self.z.shape[1], 0, self.frame_tokens
        done: dict[bool, list[int]] = {False: [], True: []}
        while left < stop:
            end = min(left + window, stop)
            if right < end:
                v[:, right:end] = v[:, right - self.frame_tokens : end - self.frame_tokens].clone()
                right = end
            half = (len(done[False]) + len(done[True])) % (num_half + num_full) < num_half
            new, residuals = self.target(v, left, end, half)
            done[half].append(end - left)
            run = 0 if half else int((residuals <= tolerance).cumprod(dim=0).sum())
            v[:, left + run : end] = new[:, run:]
            left += 0 if half else min(run + 1, end - left)
        return done


@torch.no_grad()
def main(args: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--clips", type=harness.positive, default=2, help="figures are means over these")
    parser.add_argument("--windows", type=harness.positive, nargs="+", default=[8, 16, 32], help="tokens at once")
    parser.add_argument("--model", default="toyworld", help="a bundled model, a folder, or a hub id")
    options = parser.parse_args(args)
    pipeline = harness.load(options.model)
    clips = [Clip(pipeline, seed) for seed in range(options.clips)]
    residuals = torch.cat([clip.residuals_of_half() for clip in clips])
    tolerance = pipeline.config.tolerance
    print(
        f"residuals of clips sampled in bfloat16: median {residuals.median():.3f}, largest {residuals.max():.3f}, "
        f"{(residuals <= tolerance).float().mean():.0%} within the tolerance of {tolerance}"
    )
    print(f"{'window':>7}{'schedule':>10}{'sweeps in bfloat16, float32':>29}{'evaluations per token':>23}")
    for window in options.windows:
        for num_half, num_full in SCHEDULES:
            done = [clip.solve(window, tolerance, num_half, num_full) for clip in clips]
            sweeps = [sum(len(each[half]) for each in done) / len(clips) for half in (True, False)]
            tokens = sum(clip.z.shape[1] for clip in clips)
            evaluations = [sum(sum(each[half]) for each in done) / tokens for half in (True, False)]
            print(
                f"{window:>7}{f'{num_half} + {num_full}':>10}{sweeps[0]:>22.1f}{sweeps[1]:>7.1f}"
                f"{evaluations[0]:>16.2f}{evaluations[1]:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    harness.run(main)
