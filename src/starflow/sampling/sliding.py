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
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from starflow.errors import StarflowError, UsageError
from starflow.sampling.solvers import Gaussians, Progress, Solution, sequential

# Errors of the shallow blocks reach the deep block's noise multiplied: they are kept this much smaller.
SHALLOW_SHARE = 1e-3


@dataclass(frozen=True)
class SlidingWindow:
    """The sliding-window solver, see the top of this module.

    Args:
        window: tokens of the deep block that are iterated at once; 1 is token by token.
        tolerance: the largest residual that a settled token may have.
        shallow_window: the same as `window` for the shallow blocks, whose tolerance is a thousandth: what they leave
            counts towards the error of the whole.
        max_sweeps: a token evaluated so often is settled as it is; None for no limit, which needs none to end.
        on_unconverged: what happens then: `warn` or `raise`.
    """

    window: int = 16
    tolerance: float = 1e-2
    shallow_window: int = 1
    max_sweeps: int | None = None
    on_unconverged: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        sweeps = 1 if self.max_sweeps is None else self.max_sweeps
        if min(self.window, self.shallow_window, sweeps) < 1 or not self.tolerance >= 0:
            raise UsageError(f"windows and sweeps must be at least 1 and the tolerance at least 0, not {self}")
        if self.on_unconverged not in ("warn", "raise"):
            raise UsageError(f"on_unconverged is warn or raise, not {self.on_unconverged!r}")

    def within_frames(self) -> "SlidingWindow":
        """The solver for shallow blocks."""
        return replace(self, window=self.shallow_window, tolerance=self.tolerance * SHALLOW_SHARE)

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
        walk = _Walk(gaussians, z, v, start, stop, frame_tokens)
        while min(walk.lefts) < stop:
            done = walk.sweep(self.window, self.tolerance, self.max_sweeps)
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

    def __init__(self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int) -> None:
        self.gaussians, self.z, self.v = gaussians, z, v
        self.stop, self.frame_tokens = stop, frame_tokens
        self.lefts = [start] * len(v)  # the first token of each sample that is not settled
        self.rights = [start] * len(v)  # and the first that was never evaluated
        self.num_sweeps = 0
        self.first_sweeps = [[0] * stop for _ in v]  # in which sweep each token was first evaluated
        self.restarted: set[int] = set()

    def sweep(self, window: int, tolerance: float, max_sweeps: int | None) -> Solution:
        """Evaluate every sample's window once, settle what has passed, and move on."""
        windows = [range(left, min(left + window, self.stop)) for left in self.lefts]
        self._enter(windows)
        at = self._index(windows)
        mu, sigma = self.gaussians.evaluate_windows(self.v, windows)
        old, new = self.v[at], mu + sigma * self.z[at]
        residuals = iter(((old - new).abs() / sigma).amax(-1).tolist())  # the one wait for the device
        settled: list[float] = []
        runs, stays = [], []
        for row, tokens in enumerate(windows):
            of_row = list(islice(residuals, len(tokens)))
            run = self._run(row, tokens, of_row, tolerance, max_sweeps)
            settled += of_row[: max(run, 0)]
            stays += [index < run for index in range(len(tokens))]
            runs.append(run)
        self.v[at] = torch.where(torch.tensor(stays, device=old.device)[:, None], old, new)
        num_settled = sum(
            self._move(row, tokens, run) for row, (tokens, run) in enumerate(zip(windows, runs, strict=True))
        )
        worst = max(settled, default=0.0)
        return Solution(1, len(stays), num_settled, worst, worst <= tolerance)

    def _enter(self, windows: list[range]) -> None:
        """Tokens new to the windows take the values that the previous frame has at their places."""
        self.num_sweeps += 1
        for row, tokens in enumerate(windows):
            for token in range(self.rights[row], tokens.stop):
                self.first_sweeps[row][token] = self.num_sweeps
            first = max(self.rights[row], self.frame_tokens)
            if first < tokens.stop:
                previous = self.v[row, first - self.frame_tokens : tokens.stop - self.frame_tokens]
                self.v[row, first : tokens.stop] = previous.clone()
            self.rights[row] = max(self.rights[row], tokens.stop)

    def _index(self, windows: list[range]) -> tuple[Tensor, Tensor]:
        """Where the windows' tokens lie in `(B, N)`, in the order of `Gaussians.evaluate_windows`."""
        packed = [(row, token) for row, tokens in enumerate(windows) for token in tokens]
        rows, tokens = torch.tensor(packed, device=self.v.device).unbind(1)
        return rows, tokens

    def _run(self, row: int, tokens: range, residuals: list[float], tolerance: float, max_sweeps: int | None) -> int:
        """How many tokens from the left of a window have passed; -1 if one's residual is not a number."""
        if not all(map(isfinite, residuals)):
            return -1
        for index, (token, residual) in enumerate(zip(tokens, residuals, strict=True)):
            times = self.num_sweeps - self.first_sweeps[row][token] + 1
            if residual > tolerance and (max_sweeps is None or times < max_sweeps):
                return index
        return len(tokens)

    def _move(self, row: int, tokens: range, run: int) -> int:
        """Move a window behind what is settled of it; returns how much that is.

        One that met a NaN starts again from the noise, once.
        """
        if run < 0:
            if row in self.restarted:
                raise StarflowError("a sampled token is NaN: the weights are damaged, or do not fit the input")
            self.restarted.add(row)
            self.v[row, tokens.start : tokens.stop] = self.z[row, tokens.start : tokens.stop]
            return 0
        num_settled = min(run + 1, len(tokens))
        self.lefts[row] += num_settled
        return num_settled
