"""The certified solver: Jacobi iteration over a window of tokens that slides along as its left end is settled.

Each sweep evaluates the window in one pass, and settles the longest run from its left whose residuals are at most the
tolerance, and the token after that run: what a sweep makes of it rests on settled tokens alone, so that it is exact.
At least one token is settled in every sweep, so that there are never more sweeps than tokens. A token is settled with
the value whose residual was measured, or with an exact one, and is not touched again: what comes out is the exact
sample of a noise within the tolerance of the one asked for.

Each sample of a batch has a window of its own, which moves when that sample's residuals say so: a sample depends on its
neighbours neither in what it becomes nor in how many sweeps it takes.

Legend: `B` samples still on their way, `N` tokens, `D` channels, `n` tokens of a window.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
        while walk.lefts:
            done = walk.sweep(self.window, self.tolerance, self.max_sweeps)
            if not done.converged:
                self._say_unconverged(done.max_residual)
            yield Progress(min(walk.lefts, default=stop), done)

    def _say_unconverged(self, residual: float) -> None:
        message = (
            f"after {self.max_sweeps} sweeps a token's residual is {residual:.1e}, above the tolerance of "
            f"{self.tolerance:.1e}: allow more sweeps"
        )
        if self.on_unconverged == "raise":
            raise StarflowError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Walk:
    """The windows of a batch on their way from `start` to `stop`. A sample that has arrived leaves."""

    def __init__(self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int) -> None:
        self.gaussians, self.z, self.v = gaussians, z, v
        self.stop, self.frame_tokens = stop, frame_tokens
        self.rows = list(range(len(v)))  # the samples still on their way
        self.lefts = [start] * len(v)  # for each of them the first token that is not settled
        self.rights = [start] * len(v)  # and the first that was never evaluated
        self.restarted: set[int] = set()
        self.times_evaluated = torch.zeros(v.shape[:2], dtype=torch.long, device=v.device)

    def sweep(self, window: int, tolerance: float, max_sweeps: int | None) -> Solution:
        """Evaluate every sample's window once, settle what has passed, and move on."""
        width = min(window, self.stop - min(self.lefts))
        firsts = [min(left, self.stop - width) for left in self.lefts]
        at = self._enter(firsts, width)
        settled = at[1] < self._column(self.lefts)
        v = self.v if len(self.rows) == len(self.v) else self.v[self.rows]
        mu, sigma = self.gaussians.evaluate_windows(v, firsts, width)
        old, z = self.v[at], self.z[at]
        new = mu + sigma * z
        residual = ((old - new).abs() / sigma).amax(-1).masked_fill(settled, 0)
        passed = residual <= tolerance
        if max_sweeps is not None:
            passed |= self.times_evaluated[at] >= max_sweeps
        run = passed.cumprod(dim=1).bool()
        broken = ~new.isfinite().flatten(1).all(1)
        restart = torch.where(settled[..., None], old, z)
        self.v[at] = torch.where(broken[:, None, None], restart, torch.where(run[..., None], old, new))
        num_settled = torch.where(broken, -1, (run.sum(1) + 1).clamp(max=width))  # of the window, or start again
        worst = residual.where(run & ~broken[:, None], 0).max()
        *counts, worst_residual = torch.cat([num_settled, worst[None]]).tolist()  # one transfer from the device
        tokens = self._move(firsts, [int(count) for count in counts])
        return Solution(1, len(firsts) * width, tokens, worst_residual, worst_residual <= tolerance)

    def _enter(self, firsts: list[int], width: int) -> tuple[Tensor, Tensor]:
        """Where the windows lie in `(B, N)`; tokens new to them take the value that they have in the previous frame."""
        tokens = self._column(firsts) + torch.arange(width, device=self.v.device)
        rows = self._column(self.rows)
        new = (tokens >= self._column(self.rights)) & (tokens >= self.frame_tokens)
        previous = self.v[rows, (tokens - self.frame_tokens).clamp(min=0)]
        self.v[rows, tokens] = torch.where(new[..., None], previous, self.v[rows, tokens])
        self.rights = [max(right, first + width) for right, first in zip(self.rights, firsts, strict=True)]
        self.times_evaluated[rows, tokens] += 1
        return rows, tokens

    def _move(self, firsts: list[int], counts: list[int]) -> int:
        """Move each window behind what is settled of it, -1 being for one that starts again; returns how many were."""
        for row, count in zip(self.rows, counts, strict=True):
            if count < 0 and row in self.restarted:
                raise StarflowError("a sampled token is NaN: the weights are damaged, or do not fit the input")
            if count < 0:
                self.restarted.add(row)
        lefts = [max(left, first + count) for left, first, count in zip(self.lefts, firsts, counts, strict=True)]
        moved = sum(lefts) - sum(self.lefts)
        going = [index for index, left in enumerate(lefts) if left < self.stop]
        if 0 < len(going) < len(lefts):
            self.gaussians = self.gaussians.select(going)
        self.rows, self.rights = [self.rows[index] for index in going], [self.rights[index] for index in going]
        self.lefts = [lefts[index] for index in going]
        return moved

    def _column(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.v.device)[:, None]
