"""The certified solver: Jacobi iteration over a window of tokens that slides along as its left end is settled.

Each sweep evaluates the window in one pass, and settles the longest run from its left whose residuals are at most the
tolerance, and the token after that run: what a sweep makes of it rests on settled tokens alone, so that it is exact.
At least one token is settled in every sweep, so that there are never more sweeps than tokens. A token is settled with
the value whose residual was measured, or with an exact one, and is not touched again: what comes out is the exact
sample of a noise within the tolerance of the one asked for.

Each sample of a batch has a window of its own, which moves when that sample's residuals say so: a sample depends on its
neighbours neither in what it becomes nor in how many sweeps it takes.

Legend: `B` samples, `N` tokens, `D` channels.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from starflow.errors import StarflowError, UsageError
from starflow.flow.block import packed
from starflow.sampling.names import ON_UNCONVERGED
from starflow.sampling.solvers import Gaussians, Progress, Solution, sequential


@dataclass(frozen=True)
class SlidingWindow:
    """The sliding-window solver, see the top of this module.

    Args:
        window: tokens that are iterated at once; 1 is token by token.
        tolerance: the largest residual that a settled token may have.
        max_sweeps: a token evaluated so often is settled as it is; None for no limit, which needs none to end.
        on_unconverged: what happens then: `warn` or `raise`.
    """

    window: int = 16
    tolerance: float = 1e-2
    max_sweeps: int | None = None
    on_unconverged: str = "warn"

    def __post_init__(self) -> None:
        sweeps = 1 if self.max_sweeps is None else self.max_sweeps
        if min(self.window, sweeps) < 1 or not self.tolerance >= 0:
            raise UsageError(f"window and sweeps must be at least 1 and the tolerance at least 0, not {self}")
        if self.on_unconverged not in ON_UNCONVERGED:
            raise UsageError(f"on_unconverged is warn or raise, not {self.on_unconverged!r}")

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        """See `Solver`. A start that is no number is replaced by the noise.

        Raises StarflowError when a token is NaN whatever it starts from, or, if asked to, when a residual is too large.
        """
        if self.window == 1:
            yield from sequential(gaussians, z, v, start, stop, frame_tokens)
            return
        v[:, start:stop] = torch.where(v[:, start:stop].isfinite(), v[:, start:stop], z[:, start:stop])
        walk = _Walk(self, gaussians, z, v, start, stop, frame_tokens)
        while min(walk.lefts) < stop:
            done = walk.sweep()
            if not done.converged:
                self._say_unconverged(done.max_residual)
            yield Progress(min(walk.lefts), done)

    def _say_unconverged(self, residual: float) -> None:
        message = (
            f"after {self.max_sweeps} sweeps a token's residual is {residual:.1e}, above the tolerance of "
            f"{self.tolerance:.1e}: allow more sweeps"
        )
        if self.on_unconverged == "raise":
            raise StarflowError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Walk:
    """The windows of a batch on their way from `start` to `stop`."""

    def __init__(
        self,
        solver: SlidingWindow,
        gaussians: Gaussians,
        z: Tensor,
        v: Tensor,
        start: int,
        stop: int,
        frame_tokens: int,
    ) -> None:
        self.solver, self.gaussians, self.z, self.v = solver, gaussians, z, v
        self.stop, self.frame_tokens = stop, frame_tokens
        self.lefts = [start] * len(v)  # the first token of each sample that is not settled
        self.rights = [start] * len(v)  # and the first that was never evaluated
        self.times = torch.zeros(v.shape[:2], dtype=torch.int, device=v.device)  # that each token was evaluated
        self.restarted: set[int] = set()

    def sweep(self) -> Solution:
        """Evaluate every sample's window once, settle what has passed, and move on."""
        windows = [range(left, min(left + self.solver.window, self.stop)) for left in self.lefts]
        self._enter(windows)
        rows, tokens, offsets = packed(windows, self.v.device)
        mu, sigma = self.gaussians.evaluate_windows(self.v, windows)
        old, new = self.v[rows, tokens], mu + sigma * self.z[rows, tokens]
        residuals = old.new_zeros(len(windows), self.solver.window)  # one row for each window
        residuals[rows, offsets] = ((old - new).abs() / sigma).amax(-1)
        stays = self._passed(residuals, rows, tokens, offsets).cumprod(dim=1).bool()
        self.v[rows, tokens] = torch.where(stays[rows, offsets, None], old, new)
        worst = torch.where(stays, residuals, 0).amax(dim=1)
        numbers = torch.stack([stays.sum(dim=1), residuals.isfinite().all(dim=1), worst], dim=1)
        runs, finite, settled_residuals = zip(*numbers.tolist(), strict=True)  # the one wait for the device
        num_settled = sum(map(self._move, range(len(windows)), windows, runs, finite))
        residual = max(settled_residuals)
        return Solution(1, len(rows), num_settled, residual, residual <= self.solver.tolerance)

    def _enter(self, windows: list[range]) -> None:
        """Tokens new to the windows take the values that the previous frame has at their places."""
        for row, tokens in enumerate(windows):
            first = max(self.rights[row], self.frame_tokens)
            if first < tokens.stop:
                previous = self.v[row, first - self.frame_tokens : tokens.stop - self.frame_tokens]
                self.v[row, first : tokens.stop] = previous.clone()
            self.rights[row] = max(self.rights[row], tokens.stop)

    def _passed(self, residuals: Tensor, rows: Tensor, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Which tokens of the windows may be settled, `(B, window)`: none where a residual is no number."""
        passed = residuals <= self.solver.tolerance
        if self.solver.max_sweeps is not None:
            self.times[rows, tokens] += 1
            passed[rows, offsets] |= self.times[rows, tokens] >= self.solver.max_sweeps
        return passed & residuals.isfinite().all(dim=1, keepdim=True)

    def _move(self, row: int, tokens: range, run: float, finite: float) -> int:
        """Move a window behind the `run` of tokens that passed and the one after it; returns how many that is.

        A window that met a NaN starts again from the noise, once.
        """
        if not finite:
            if row in self.restarted:
                raise StarflowError("a sampled token is NaN: the weights are damaged, or do not fit the input")
            self.restarted.add(row)
            self.v[row, tokens.start : tokens.stop] = self.z[row, tokens.start : tokens.stop]
            return 0
        num_settled = min(int(run) + 1, len(tokens))
        self.lefts[row] += num_settled
        return num_settled
