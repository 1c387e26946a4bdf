"""The certified solver: Jacobi iteration over a window of tokens that slides on as the tokens at its left end settle.

A sweep evaluates the window in one pass. It settles the longest run of tokens from the left whose residuals are at most
the tolerance, and the token after that run, whose new value depends on settled tokens alone and is therefore exact. So
every sweep settles at least one token, and there are never more sweeps than tokens. A token settles with the value that
has the measured residual, or with an exact value, and never changes again. The result is the exact sample of a noise
that differs from the given noise by at most the tolerance.

Each sample of a batch has its own window, which moves by that sample's residuals alone. Neither a sample's values nor
its number of sweeps depends on the rest of the batch.

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
        window: tokens that are updated at once; 1 is token by token.
        tolerance: the largest residual that a settled token may have.
        max_sweeps: a token settles as it is after so many evaluations; None for no limit.
        on_unconverged: what to do then if its residual is too large: `warn` or `raise`.

    Raises:
        UsageError: a value out of range.
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
        """See `Solver`. Start values that are not finite are replaced by the noise.

        Raises StarflowError if a token is NaN from every start, or, with `on_unconverged="raise"`, if a residual is
        too large.
        """
        if self.window == 1:
            yield from sequential(gaussians, z, v, start, stop, frame_tokens)
            return
        v[:, start:stop] = torch.where(v[:, start:stop].isfinite(), v[:, start:stop], z[:, start:stop])
        walk = _Walk(self, gaussians, z, v, start, stop, frame_tokens)
        while min(walk.lefts) < stop:
            done = walk.sweep()
            if not done.converged:
                self._report_unconverged(done.max_residual)
            yield Progress(min(walk.lefts), done)

    def _report_unconverged(self, residual: float) -> None:
        message = (
            f"after {self.max_sweeps} sweeps a token's residual is {residual:.1e}, above the tolerance of "
            f"{self.tolerance:.1e}: allow more sweeps"
        )
        if self.on_unconverged == "raise":
            raise StarflowError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Walk:
    """The windows of a batch, which move from `start` to `stop`."""

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
        self.lefts = [start] * len(v)  # of each sample, the first token that is not settled
        self.rights = [start] * len(v)  # and the first token that was never evaluated
        self.times = torch.zeros(v.shape[:2], dtype=torch.int, device=v.device)  # how often each token was evaluated
        self.restarted: set[int] = set()

    def sweep(self) -> Solution:
        """Evaluate every sample's window once, settle the tokens that passed, and move the windows."""
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
        runs, finite, settled_residuals = zip(*numbers.tolist(), strict=True)  # synchronizes with the device
        num_settled = sum(map(self._move, range(len(windows)), windows, runs, finite))
        residual = max(settled_residuals)
        return Solution(1, len(rows), num_settled, residual, residual <= self.solver.tolerance)

    def _enter(self, windows: list[range]) -> None:
        """Give tokens that are new to the windows the values of the same places in the previous frame."""
        for row, tokens in enumerate(windows):
            first = max(self.rights[row], self.frame_tokens)
            if first < tokens.stop:
                previous = self.v[row, first - self.frame_tokens : tokens.stop - self.frame_tokens]
                self.v[row, first : tokens.stop] = previous.clone()
            self.rights[row] = max(self.rights[row], tokens.stop)

    def _passed(self, residuals: Tensor, rows: Tensor, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Which tokens of the windows may settle, `(B, window)`: none of a window in which a residual is not finite."""
        passed = residuals <= self.solver.tolerance
        if self.solver.max_sweeps is not None:
            self.times[rows, tokens] += 1
            passed[rows, offsets] |= self.times[rows, tokens] >= self.solver.max_sweeps
        return passed & residuals.isfinite().all(dim=1, keepdim=True)

    def _move(self, row: int, tokens: range, run: float, finite: float) -> int:
        """Move a window past the `run` of tokens that passed and the token after it; returns how many have settled.

        A window with a residual that is not finite starts again from the noise, once.
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
