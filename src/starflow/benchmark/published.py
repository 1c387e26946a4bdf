"""The sampler of the released implementation, as a solver to measure ours against. Not certified, and not for use."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from starflow.sampling.solvers import Gaussians, Progress, Solution


@dataclass(frozen=True)
class PublishedJacobi:
    """Video-aware block-wise Jacobi with the released stopping rule (STARFlow-V, arXiv 2511.20462).

    `block_size` tokens in the first frame, `later_block_size` after it (32 and 128 in the released code, 64 and 512 in
    the paper). Blocks may cross frames. One is iterated until the mean square of the change, over the batch, is below
    `threshold` times that of the values, `max_sweeps` times at most. Its first sweep reads the previous frame's tokens
    in the place of its own. What comes out is the last sweep's prediction, so that the cache is one sweep behind it.
    """

    block_size: int
    later_block_size: int
    threshold: float = 1e-3
    max_sweeps: int = 32

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        """See `starflow.sampling.solvers.Solver`; the residual is not measured."""
        first = start
        while first < stop:
            size = self.block_size if first <= frame_tokens else self.later_block_size
            last = min(first + size, stop)
            sweeps = self._solve_block(gaussians, z, v, first, last, frame_tokens)
            tokens = len(v) * (last - first)
            yield Progress(last, Solution(sweeps, sweeps * tokens, tokens))
            first = last

    def _solve_block(self, gaussians: Gaussians, z: Tensor, v: Tensor, first: int, last: int, frame_tokens: int) -> int:
        for sweep in range(1, self.max_sweeps + 1):
            read = v
            if sweep == 1 and first > frame_tokens:
                read = v.clone()
                read[:, first - 1 : last - 1] = v[:, first - 1 - frame_tokens : last - 1 - frame_tokens]
            mu, sigma = gaussians.evaluate(read, first, last)
            new = mu + sigma * z[:, first:last]
            change = (new - v[:, first:last]).square().mean() / new.square().mean()
            v[:, first:last] = new
            if change < self.threshold:
                break
        return sweep
