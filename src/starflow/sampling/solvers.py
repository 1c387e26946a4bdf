"""How a block is inverted: `v_t = mu_t(v_<t) + sigma_t(v_<t) · z_t`, token by token or by Jacobi iteration.

A solver is a function `(gaussians, z, v, start, stop) → Solution` that fills tokens `start … stop - 1` of `v` in place,
those before `start` being settled. The **residual** of a token is the largest `|v - mu(v) - sigma(v)·z| / sigma(v)` of
its channels, in units of the prior: if it is at most `tau` everywhere, `v` is the exact sample for a noise `z'` with
`|z' - z| <= tau`.

Legend: `B` batch, `N` tokens, `D` channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from typing import Protocol

import torch
from torch import Tensor

from starflow.errors import StarflowError, UsageError


class Gaussians(Protocol):
    """What a solver needs of a block: see `starflow.flow.block.ConditionalGaussians.evaluate`."""

    def evaluate(self, v: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Solution:
    """What a solver did: passes through the block, tokens evaluated in them, tokens solved, largest residual.

    Tokens are counted for one sample of the batch.
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


Solver = Callable[[Gaussians, Tensor, Tensor, int, int], Solution]


def sequential(gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int) -> Solution:
    """Token by token with the key/value cache: exact, one pass per token. `z` and `v` are `(B, N, D)`."""
    for t in range(start, stop):
        mu, sigma = gaussians.evaluate(v, t, t + 1)
        v[:, t : t + 1] = mu + sigma * z[:, t : t + 1]
    return Solution(sweeps=stop - start, evaluations=stop - start, tokens=stop - start)


@dataclass(frozen=True)
class BlockJacobi:
    """Block-wise Jacobi: blocks of tokens in order, each iterated until every token's residual is at most `tolerance`.

    After `k` sweeps the first `k` tokens of a block are exact whatever the (finite) start, so a block of `n` tokens
    takes at most `n + 1` sweeps (with `max_sweeps` None). A block starts from the values that `v` comes with
    (STARFlow-V, section on block-wise Jacobi, starts from the previous frame's). What is returned are the values whose
    residual was measured, so that the cache agrees with them.
    """

    block_size: int = 64
    tolerance: float = 1e-2
    max_sweeps: int | None = None

    def __post_init__(self) -> None:
        if self.block_size < 1 or not self.tolerance >= 0 or (self.max_sweeps is not None and self.max_sweeps < 1):
            raise UsageError(f"block size and sweeps must be at least 1 and the tolerance at least 0, not {self}")

    def __call__(self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int) -> Solution:
        """Solve tokens `start … stop - 1` of `v` `(B, N, D)` for the noise `z` `(B, N, D)`.

        Raises StarflowError when a residual is NaN: no later sweep can mend that.
        """
        solution = Solution()
        for first in range(start, stop, self.block_size):
            solution += self._solve_block(gaussians, z, v, first, min(first + self.block_size, stop))
        return solution

    def _solve_block(self, gaussians: Gaussians, z: Tensor, v: Tensor, first: int, last: int) -> Solution:
        limit = last - first + 1 if self.max_sweeps is None else self.max_sweeps
        for sweep in range(1, limit + 1):
            mu, sigma = gaussians.evaluate(v, first, last)
            target = mu + sigma * z[:, first:last]
            residual = ((v[:, first:last] - target).abs() / sigma).max().item()
            if isnan(residual):
                raise StarflowError("a sampled token is NaN: the weights are damaged, or do not fit the input")
            converged = residual <= self.tolerance
            if converged or sweep == limit:
                break
            v[:, first:last] = target
        return Solution(sweep, sweep * (last - first), last - first, residual, converged)


def solver_named(name: str, *, tolerance: float, block_size: int) -> Solver:
    """The solver that a user names: `sequential` or `block-jacobi`. Raises UsageError for another name."""
    if name == "sequential":
        return sequential
    if name == "block-jacobi":
        return BlockJacobi(block_size, tolerance)
    raise UsageError(f"unknown sampler {name!r}: choose sequential or block-jacobi")


def require_finite(x: Tensor, what: str) -> Tensor:
    """`x` itself. Raises StarflowError if it has a NaN or an infinity."""
    if not torch.isfinite(x).all():
        raise StarflowError(f"{what} has NaN or infinite values: the weights are damaged, or do not fit the input")
    return x
