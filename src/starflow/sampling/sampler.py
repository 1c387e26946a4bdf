"""Noise → latents: the deep block frame by frame, over a rolling window, then the shallow blocks within each frame.

Legend: `B` batch, `T` latent frames, `H W` latent rows and columns, `D` latent channels, `M` text tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from starflow.errors import UsageError
from starflow.flow.block import ConditionalGaussians
from starflow.flow.model import StarFlow
from starflow.flow.transformer import at_least_float32
from starflow.sampling.sliding import OnUnconverged, SlidingWindow
from starflow.sampling.solvers import BlockJacobi, Solution, Solver, Solvers, require_finite, sequential, solve

# Residuals of the shallow blocks reach the deep block's noise multiplied, by 5 to 9 in the bundled model (see
# docs/sampling.md): so much of the tolerance each may leave where both are iterated.
DEEP_SHARE, SHALLOW_SHARE = 0.9, 0.01


@dataclass(frozen=True)
class Window:
    """The deep block's cache holds `size` latent frames (None: all).

    When it is full, the last `context` frames are encoded again, from position 0.
    """

    size: int | None = None
    context: int = 16

    def __post_init__(self) -> None:
        if self.size is not None and not 0 < self.context < self.size:
            raise UsageError(f"the context must be 1 to {self.size - 1} latent frames, not {self.context}")


@dataclass
class SamplingReport:
    """What the solvers did in the deep block and in the shallow ones."""

    deep: Solution = field(default_factory=Solution)
    shallow: Solution = field(default_factory=Solution)

    def __str__(self) -> str:
        both = self.deep + self.shallow
        state = "converged" if both.converged else "NOT converged"
        return (
            f"{both.sweeps} sweeps ({self.deep.sweeps} deep), "
            f"{both.evaluations / max(both.tokens, 1):.1f} evaluations per token, "
            f"largest residual {both.max_residual:.1e}, {state}"
        )


def solvers_named(
    name: str,
    *,
    tolerance: float,
    block_size: int,
    shallow_block_size: int,
    max_sweeps: int | None = None,
    on_unconverged: OnUnconverged = "warn",
) -> Solvers:
    """The solvers that a user names: `sliding`, `block-jacobi` or `sequential`. Raises UsageError for another name.

    `block_size` tokens of the deep block are iterated at once, and `shallow_block_size` tokens of the shallow ones; 1
    is token by token. What is fastest depends on the model and the machine: `benchmarks/block_sizes.py` finds out.
    The tolerance is of the whole flow. See `SlidingWindow` for `max_sweeps` and `on_unconverged`, which the others
    have not: they end by themselves.
    """
    shallow_is_exact = shallow_block_size == 1 or name == "sequential"
    deep_tolerance = tolerance if shallow_is_exact else DEEP_SHARE * tolerance
    if name == "sliding":
        deep: Solver = SlidingWindow(block_size, deep_tolerance, max_sweeps, on_unconverged)
        shallow: Solver = SlidingWindow(shallow_block_size, SHALLOW_SHARE * tolerance, max_sweeps, on_unconverged)
        return Solvers(deep, sequential if shallow_is_exact else shallow)
    if name == "block-jacobi":
        return Solvers(
            BlockJacobi(block_size, deep_tolerance),
            sequential if shallow_is_exact else BlockJacobi(shallow_block_size, SHALLOW_SHARE * tolerance),
        )
    if name == "sequential":
        return Solvers(sequential, sequential)
    raise UsageError(f"unknown sampler {name!r}: choose sliding, block-jacobi or sequential")


@torch.no_grad()
def deep_frames(
    flow: StarFlow,
    noise: Tensor,
    text: Tensor,
    null_text: Tensor | None,
    guidance_scale: float,
    given: Tensor | None,
    window: Window,
    solver: Solver,
    report: SamplingReport,
    later_text: Tensor | None = None,
) -> Iterator[Tensor]:
    """Invert the deep block: yields each frame `u` `(B, 1, H, W, D)` after the `given` ones as soon as it is settled.

    `noise` `(B, T, H, W, D)` covers all frames; `given` `(B, K, H, W, D)` are frames that went through the shallow
    blocks. `later_text` is the text of windows that have left the first frame behind, if it is another. `report` grows
    as frames are made.
    """
    batch, num_frames, height, width, _ = noise.shape
    size = min(window.size or num_frames, num_frames)
    u = torch.zeros_like(noise)
    num_given = 0 if given is None else given.shape[1]
    if given is not None:
        u[:, :num_given] = given
    origin = 0 if num_given < size else num_given - window.context
    known = num_given - origin
    deep, grid = flow.num_blocks - 1, (size, height, width)
    cached_text = None
    while origin + known < num_frames:
        end = min(origin + size, num_frames)
        window_text = text if origin == 0 or later_text is None else later_text
        if window_text is not cached_text:  # else the cache keeps the text, and forgets the frames
            gaussians = flow.conditional(deep, batch, grid, window_text, null_text, guidance_scale)
            cached_text = window_text
        for frame in _window_frames(flow, gaussians, noise[:, origin:end], u[:, origin:end], known, solver, report):
            yield u[:, origin + frame : origin + frame + 1]
        origin, known = end - window.context, window.context


def _window_frames(
    flow: StarFlow,
    gaussians: ConditionalGaussians,
    noise: Tensor,
    u: Tensor,
    known: int,
    solver: Solver,
    report: SamplingReport,
) -> Iterator[int]:
    """Fill frames `known …` of `u` `(B, T, H, W, D)` in place; yields the index of each as it is settled."""
    deep = flow.num_blocks - 1
    num_frames, height, width = u.shape[1:4]
    frame_tokens = height * width
    z, v = flow.to_tokens(noise, deep), flow.to_tokens(u, deep).clone()
    start, stop = known * frame_tokens, num_frames * frame_tokens
    v[:, start:] = z[:, start:]
    gaussians.forget()  # the first sweep takes in the known frames
    frame = known
    for settled, done in solver(gaussians, z, v, start, stop, frame_tokens):
        report.deep += done
        while (frame + 1) * frame_tokens <= settled:
            tokens = v[:, frame * frame_tokens : (frame + 1) * frame_tokens]
            require_finite(tokens, "a sampled frame")
            u[:, frame : frame + 1] = flow.from_tokens(tokens, deep, (1, height, width))
            yield frame
            frame += 1


@torch.no_grad()
def invert_shallow(flow: StarFlow, u: Tensor, solver: Solver, report: SamplingReport) -> Tensor:
    """Invert the shallow blocks: `u` `(B, T, H, W, D)` → `x` of the same shape; all frames are one batch."""
    x = u
    grid = (u.shape[1], u.shape[2], u.shape[3])
    for index in reversed(range(flow.num_blocks - 1)):
        z = flow.to_tokens(x, index)
        v = z.clone()
        gaussians = flow.conditional(index, z.shape[0], (1, *grid[1:]))
        report.shallow += solve(solver, gaussians, z, v, 0, z.shape[1])
        x = flow.from_tokens(v, index, grid)
    return require_finite(x, "a sampled frame")


@torch.no_grad()
def sample(
    flow: StarFlow,
    noise: Tensor,
    text: Tensor,
    null_text: Tensor | None = None,
    guidance_scale: float = 0.0,
    *,
    prefix: Tensor | None = None,
    window: Window | None = None,
    solver: Solver | Solvers | None = None,
    on_frame: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, SamplingReport]:
    """Noise → latents, the inverse of `StarFlow.encode`.

    Args:
        flow: the model.
        noise: `(B, T, D, H, W)`, standard normal; that of given frames is not used.
        text: `(B, M, text width)`, the captions' encodings.
        null_text: the same of the empty caption; needed when `guidance_scale` is not 0.
        guidance_scale: `w` of `starflow.flow.guidance.guide`, on the deep block only.
        prefix: `(B, K, D, H, W)`, `K < T` noised latents that the video begins with; they come back as they are.
        window: for videos longer than training (STARFlow-V, rolling window); the default holds everything.
        solver: how every block is inverted, or `Solvers` for the deep one and the shallow ones; by default
            `SlidingWindow` for the deep one, and token by token, exactly, for the others.
        on_frame: called with the index and `u` `(B, 1, H, W, D)` of each frame as the deep block finishes it.

    Returns:
        latents `(B, T, D, H, W)` at the noise level of training, float32 or wider, and what the solvers did.

    Raises:
        UsageError: a prefix that leaves nothing to generate. StarflowError: NaN in what was sampled.
    """
    solver = solver or Solvers(SlidingWindow(), sequential)
    deep, shallow = solver if isinstance(solver, Solvers) else Solvers(solver, solver)
    report = SamplingReport()
    num_given = 0 if prefix is None else prefix.shape[1]
    if num_given >= noise.shape[1]:
        raise UsageError(f"{num_given} latent frames are given, and only {noise.shape[1]} asked for: ask for more")
    z = at_least_float32(noise).permute(0, 1, 3, 4, 2)
    given = None if prefix is None else flow.encode_shallow(prefix)
    frames = []
    for u in deep_frames(flow, z, text, null_text, guidance_scale, given, window or Window(), deep, report):
        frames.append(u)
        if on_frame is not None:
            on_frame(num_given + len(frames) - 1, u)
    x = invert_shallow(flow, torch.cat(frames, dim=1), shallow, report).permute(0, 1, 4, 2, 3)
    return (x if prefix is None else torch.cat([prefix.to(x.dtype), x], dim=1)), report
