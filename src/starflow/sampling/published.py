"""The sampler of the released implementation, for comparison. It measures no residuals, so it certifies nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from torch import Tensor

from starflow.sampling.solvers import Gaussians, Progress, Solution


@dataclass(frozen=True)
class PublishedJacobi:
    """Video-aware block-wise Jacobi with the released stopping rule (STARFlow-V, arXiv 2511.20462).

    Blocks have `block_size` tokens in the first frame and `later_block_size` after it: 32 and 128 in the released code,
    64 and 512 in the paper. They may cross frames. A block is iterated until the mean square of the change over the
    batch is below `threshold` times that of the values, but at most `max_sweeps` times. The first sweep of a block
    starts from the previous frame's tokens. The last sweep's prediction is returned, so the cache is one sweep behind
    it.
    """

    block_size: int = 32
    later_block_size: int = 128
    threshold: float = 1e-3
    max_sweeps: int = 32

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        """See `starflow.sampling.solvers.Solver`. The residual is not measured and is reported as infinite."""
        first = start
        while first < stop:
            size = self.block_size if first <= frame_tokens else self.later_block_size
            last = min(first + size, stop)
            sweeps = self._solve_block(gaussians, z, v, first, last, frame_tokens)
            tokens = len(v) * (last - first)
            yield Progress(last, Solution(sweeps, sweeps * tokens, tokens, inf, converged=False))
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
