"""Solvers of `v_t = mu_t(v_<t) + sigma_t(v_<t) · z_t`, the inverse of a block: token by token, or Jacobi iteration.

The **residual** of a token is the largest `|v - mu(v) - sigma(v)·z| / sigma(v)` over its channels, in units of the
prior. If it is at most `tau` for every token, `v` is the exact sample of a noise `z'` with `|z' - z| <= tau`.

Legend: `B` batch, `N` tokens, `D` channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from starflow.errors import StarflowError, UsageError


class Gaussians(Protocol):
    """What a solver needs of a block: see `starflow.flow.block.ConditionalGaussians`."""

    def evaluate(self, v: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]: ...

    def evaluate_windows(self, v: Tensor, windows: Sequence[range]) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Solution:
    """What a solver did: passes through the block, evaluations of tokens, settled tokens, and the largest residual.

    Tokens are counted over the whole batch. The residual is infinite if it was not measured.
    """

    sweeps: int = 0
    evaluations: int = 0
    tokens: int = 0
    max_residual: float = 0.0
    converged: bool = True

    def __add__(self, other: "Solution") -> "Solution":
        return Solution(
            self.sweeps + other.sweeps,
            self.evaluations + other.evaluations,
            self.tokens + other.tokens,
            max(self.max_residual, other.max_residual),
            self.converged and other.converged,
        )


class Progress(NamedTuple):
    """Tokens before `settled` are final in every sample. `done` is what the solver did since its last report."""

    settled: int
    done: Solution


class Solver(Protocol):
    """Fills tokens `start … stop - 1` of `v` `(B, N, D)` in place for the noise `z` `(B, N, D)`, and reports progress.

    Tokens before `start` have settled. `v` holds finite start values. A solver may instead start a token from the token
    `frame_tokens` before it, which is at the same place in the previous frame. A sample does not depend on the other
    samples of the batch.
    """

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]: ...


class Solvers(NamedTuple):
    """The solver of the deep block and the solver of the shallow blocks."""

    deep: Solver
    shallow: Solver


def solve(
    solver: Solver, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int | None = None
) -> Solution:
    """Run a solver to its end. `frame_tokens` is None for a single frame."""
    solution = Solution()
    for progress in solver(gaussians, z, v, start, stop, v.shape[1] if frame_tokens is None else frame_tokens):
        solution += progress.done
    return solution


def sequential(
    gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
) -> Iterator[Progress]:
    """Token by token with the key/value cache: exact, one pass per token."""
    batch = v.shape[0]
    for t in range(start, stop):
        mu, sigma = gaussians.evaluate(v, t, t + 1)
        v[:, t : t + 1] = mu + sigma * z[:, t : t + 1]
        yield Progress(t + 1, Solution(sweeps=1, evaluations=batch, tokens=batch))


@dataclass(frozen=True)
class BlockJacobi:
    """Block-wise Jacobi (STARFlow-V): blocks of tokens in order, each iterated until its residuals are small enough.

    No block crosses the end of a frame. A block starts from the values of the previous frame; in the first frame it
    starts from the values in `v`. A sample whose residuals are all at most `tolerance` does not change while the others
    are iterated. After `k` sweeps, the first `k` tokens of a block are exact from any finite start, so a block of `n`
    tokens takes at most `n + 1` sweeps if `max_sweeps` is None. The residuals are those of the returned values, and the
    cache holds their keys and values.
    """

    block_size: int = 64
    tolerance: float = 1e-2
    max_sweeps: int | None = None

    def __post_init__(self) -> None:
        if self.block_size < 1 or not self.tolerance >= 0 or (self.max_sweeps is not None and self.max_sweeps < 1):
            raise UsageError(f"block_size and max_sweeps must be at least 1 and the tolerance at least 0, not {self}")

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        """See `Solver`. Raises StarflowError if a residual is NaN, which no later sweep can repair."""
        first = start
        while first < stop:
            frame_end = (first // frame_tokens + 1) * frame_tokens
            last = min(first + self.block_size, frame_end, stop)
            if first >= frame_tokens:
                v[:, first:last] = v[:, first - frame_tokens : last - frame_tokens]
            yield Progress(last, self._solve_block(gaussians, z, v, first, last))
            first = last

    def _solve_block(self, gaussians: Gaussians, z: Tensor, v: Tensor, first: int, last: int) -> Solution:
        limit = last - first + 1 if self.max_sweeps is None else self.max_sweeps
        for sweep in range(1, limit + 1):
            mu, sigma = gaussians.evaluate(v, first, last)
            target = mu + sigma * z[:, first:last]
            residual = ((v[:, first:last] - target).abs() / sigma).amax(dim=(1, 2))
            if residual.isnan().any():
                raise StarflowError("a sampled token is NaN: the weights are damaged, or do not fit the input")
            moving = residual > self.tolerance
            if sweep == limit or not moving.any():
                break
            v[:, first:last] = torch.where(moving[:, None, None], target, v[:, first:last])
        tokens = len(v) * (last - first)
        return Solution(sweep, sweep * tokens, tokens, residual.max().item(), not moving.any().item())


def require_finite(x: Tensor, what: str) -> Tensor:
    """Return `x`. Raises StarflowError if it has a NaN or an infinity; `what` names it in the message."""
    if not torch.isfinite(x).all():
        raise StarflowError(f"{what} has NaN or infinite values: the weights are damaged, or do not fit the input")
    return x
