"""Noise → latents: the deep block frame by frame, over a rolling window, then the shallow blocks within each frame.

`sample` is the inverse of `StarFlow.encode`. A `Plan` has its inputs.

Legend: `B` batch, `T` latent frames, `K` given latent frames, `t` some latent frames, `H W` latent rows and columns,
`D` latent channels, `M` text tokens, `E` action features.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from math import isinf

import torch
from torch import Tensor

from starflow.errors import UsageError
from starflow.flow.block import ConditionalGaussians
from starflow.flow.model import StarFlow
from starflow.sampling.names import SAMPLERS
from starflow.sampling.published import PublishedJacobi
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import BlockJacobi, Solution, Solver, Solvers, require_finite, sequential, solve

# The shares of the tolerance for the deep block and for the shallow blocks, if both are iterated. A residual of a
# shallow block is multiplied on its way to the deep block's noise, by 5 to 9 in the bundled model (docs/sampling.md).
DEEP_SHARE, SHALLOW_SHARE = 0.9, 0.01
DEFAULT_SOLVERS = Solvers(SlidingWindow(), sequential)


@dataclass(frozen=True)
class RollingWindow:
    """For videos longer than in training: the deep block's cache holds `size` latent frames (None: all).

    When the cache is full, it starts again from position 0 with the last `context` frames (STARFlow-V).
    """

    size: int | None = None
    context: int = 16

    def __post_init__(self) -> None:
        if self.size is not None and not 0 < self.context < self.size:
            raise UsageError(f"the context must be 1 to {self.size - 1} latent frames, not {self.context}")


@dataclass
class SamplingReport:
    """What the solvers did in the deep block and in the shallow blocks."""

    deep: Solution = field(default_factory=Solution)
    shallow: Solution = field(default_factory=Solution)

    def __str__(self) -> str:
        both = self.deep + self.shallow
        state = "converged" if both.converged else "NOT converged"
        certificate = f"largest residual {both.max_residual:.1e}, {state}"
        if isinf(both.max_residual):
            certificate = "no residual was measured: the result is not certified"
        return (
            f"{both.sweeps} sweeps ({self.deep.sweeps} deep), "
            f"{both.evaluations / max(both.tokens, 1):.1f} evaluations per token, {certificate}"
        )


@dataclass
class Plan:
    """The inputs of sampling.

    Attributes:
        noise: `(B, T, D, H, W)`, standard normal; the noise of given frames is not used.
        text: `(B, M, text width)`, the captions' encodings.
        null_text: the encodings of the empty caption, of the same shape; needed if `guidance_weight` is not 0.
        guidance_weight: `w` of `starflow.flow.guidance.guide`, in the deep block only.
        later_text: the captions' encodings after the rolling window has left the first frame; None for `text`. If
            `on_frame` replaces `text` or `later_text` by another tensor, later frames are sampled given that one.
        actions: `(B, T, E)`, the features of each latent frame's action; None for none.
        prefix: `(B, K, D, H, W)`, the first `K < T` latent frames, at the noise level of training.
        rolling_window: for videos longer than in training.
        solvers: how the deep block and the shallow blocks are inverted.
        report: what the solvers did; it grows during sampling.

    Raises:
        UsageError: the prefix leaves nothing to generate.
    """

    noise: Tensor
    text: Tensor
    null_text: Tensor | None = None
    guidance_weight: float = 0.0
    later_text: Tensor | None = None
    actions: Tensor | None = None
    prefix: Tensor | None = None
    rolling_window: RollingWindow = RollingWindow()
    solvers: Solvers = DEFAULT_SOLVERS
    report: SamplingReport = field(default_factory=SamplingReport)

    def __post_init__(self) -> None:
        if self.num_given >= self.num_frames:
            raise UsageError(
                f"the input has {self.num_given} latent frames and the video only {self.num_frames}: ask for a longer "
                "video"
            )

    @property
    def num_frames(self) -> int:
        """`T`."""
        return self.noise.shape[1]

    @property
    def num_given(self) -> int:
        """`K`."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    def text_at(self, origin: int) -> Tensor:
        """The captions' encodings while the rolling window begins at the latent frame `origin`."""
        return self.text if origin == 0 or self.later_text is None else self.later_text


def solvers_named(
    name: str,
    *,
    tolerance: float,
    block_size: int,
    shallow_block_size: int,
    max_sweeps: int | None = None,
    on_unconverged: str = "warn",
) -> Solvers:
    """The solvers of one of the names in `SAMPLERS`. Raises UsageError for another name.

    A solver updates `block_size` tokens of the deep block at once, and `shallow_block_size` of a shallow block; 1 is
    token by token. `benchmarks/block_sizes.py` finds the sizes that are fastest for a model and a machine. The
    tolerance is that of the whole flow. `max_sweeps` and `on_unconverged` are for `SlidingWindow`. `published` has the
    block sizes and the threshold of the released code.
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
    if name == "published":
        return Solvers(PublishedJacobi(), PublishedJacobi())
    raise UsageError(f"unknown sampler {name!r}: choose {', '.join(SAMPLERS)}")


# Called with the index and `u` `(B, 1, H, W, D)` of each frame that the deep block has finished. It may change `u` in
# place: what follows depends on the changed frame. True stops sampling after this frame.
FrameCallback = Callable[[int, Tensor], bool | None]


@torch.no_grad()
def sample(
    flow: StarFlow, plan: Plan, frames_at_once: int | None = None, on_frame: FrameCallback | None = None
) -> Iterator[Tensor]:
    """Yield latents `(B, t, D, H, W)` at the noise level of training as they become ready: first the prefix, unchanged.

    Args:
        flow: the model.
        plan: what to sample.
        frames_at_once: number of latent frames in a batch of the shallow blocks; None for all.
        on_frame: see `FrameCallback`.

    Raises:
        StarflowError: NaN in the sample.
    """
    if plan.prefix is not None:
        yield plan.prefix
    frames = deep_frames(flow, plan)
    ready: list[Tensor] = []
    for index, u in enumerate(frames, plan.num_given):
        is_stopped = on_frame is not None and on_frame(index, u) is True
        ready.append(u)
        is_last = is_stopped or index == plan.num_frames - 1
        if is_last:  # end the generator, which frees its cache before later stages take memory
            frames.close() if is_stopped else next(frames, None)
        if len(ready) == frames_at_once or is_last:
            yield invert_shallow(flow, torch.cat(ready, dim=1), plan)
            ready = []


@torch.no_grad()
def deep_frames(flow: StarFlow, plan: Plan) -> Generator[Tensor]:
    """Invert the deep block: yield each frame `u` `(B, 1, H, W, D)` after the given frames as soon as it is settled.

    If the caller changes a frame in place, the frames after it are sampled given the changed frame.
    """
    precision = torch.promote_types(flow.deep.sos.dtype, torch.float32)
    noise = plan.noise.to(torch.promote_types(plan.noise.dtype, precision)).permute(0, 1, 3, 4, 2)
    batch, num_frames, height, width, _ = noise.shape
    size = min(plan.rolling_window.size or num_frames, num_frames)
    context = plan.rolling_window.context
    u = torch.zeros_like(noise)
    if plan.prefix is not None:
        u[:, : plan.num_given] = flow.encode_shallow(plan.prefix)
    origin = 0 if plan.num_given < size else plan.num_given - context
    known = plan.num_given - origin
    deep, grid = flow.num_blocks - 1, (size, height, width)
    cached_text = None
    while origin + known < num_frames:
        end = min(origin + size, num_frames)
        text = plan.text_at(origin)
        if text is not cached_text:  # otherwise the cache keeps the text
            gaussians = flow.conditional(deep, batch, grid, text, plan.null_text, plan.guidance_weight)
            cached_text = text
        if plan.actions is not None:
            gaussians.set_actions(plan.actions[:, origin:end], height * width)
        for frame in _settled_frames(flow, gaussians, noise[:, origin:end], u[:, origin:end], known, plan):
            yield u[:, origin + frame : origin + frame + 1]
            if plan.text_at(origin) is not text:
                known = frame + 1  # the frames after it are sampled with the new captions
                break
        else:
            origin, known = end - context, context


def _settled_frames(
    flow: StarFlow, gaussians: ConditionalGaussians, noise: Tensor, u: Tensor, known: int, plan: Plan
) -> Iterator[int]:
    """Fill the frames of `u` `(B, T, H, W, D)` from `known` on in place; yield the index of each settled frame."""
    deep = flow.num_blocks - 1
    num_frames, height, width = u.shape[1:4]
    frame_tokens = height * width
    z, v = flow.to_tokens(noise, deep), flow.to_tokens(u, deep).clone()
    stop = num_frames * frame_tokens
    gaussians.forget()  # the first sweep evaluates the known frames too
    frame = known
    while frame < num_frames:
        start, is_changed = frame * frame_tokens, False
        v[:, start:] = z[:, start:]
        for settled, done in plan.solvers.deep(gaussians, z, v, start, stop, frame_tokens):
            plan.report.deep += done
            while (frame + 1) * frame_tokens <= settled and not is_changed:
                tokens = v[:, frame * frame_tokens : (frame + 1) * frame_tokens]
                require_finite(tokens, "a sampled frame")
                u[:, frame : frame + 1] = flow.from_tokens(tokens, deep, (1, height, width))
                yield frame
                current = flow.to_tokens(u[:, frame : frame + 1], deep)
                if is_changed := not (current == tokens).all():
                    tokens.copy_(current)
                    gaussians.forget(frame * frame_tokens)
                frame += 1
            if is_changed:
                break  # the tokens after this frame are solved again


@torch.no_grad()
def invert_shallow(flow: StarFlow, u: Tensor, plan: Plan) -> Tensor:
    """Invert the shallow blocks: `u` `(B, t, H, W, D)` → latents `(B, t, D, H, W)`, all frames in one batch."""
    x = u
    grid = (u.shape[1], u.shape[2], u.shape[3])
    for index in reversed(range(flow.num_blocks - 1)):
        z = flow.to_tokens(x, index)
        v = z.clone()
        gaussians = flow.conditional(index, z.shape[0], (1, *grid[1:]))
        plan.report.shallow += solve(plan.solvers.shallow, gaussians, z, v, 0, z.shape[1])
        x = flow.from_tokens(v, index, grid)
    return require_finite(x, "a sampled frame").permute(0, 1, 4, 2, 3)
