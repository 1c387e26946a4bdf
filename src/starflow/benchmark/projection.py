"""What sampling with a model would take on this device, projected before anybody has its weights.

Measured here: the seconds of passes through the model's blocks, with random weights, at its own sizes. Taken over from
another model, which can sample: how many sweeps a latent frame takes, with windows of the same share of a frame. The
product is a projection and nothing else: how fast sweeps converge depends on the weights.

Legend: `B` branches of guidance, `T` latent frames, `H W` latent rows and columns, `N = T·H·W` tokens, `D` latent
channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from starflow.benchmark.clocks import timed
from starflow.benchmark.windows import WindowRow, measure_windows
from starflow.encoders.video import VideoCodec
from starflow.flow.model import StarFlow
from starflow.hardware.architecture import Architecture
from starflow.pipeline.pipeline import StarFlowPipeline

SHARES = (0.25, 0.5, 1.0, 2.0)  # of a latent frame that a window holds
WEIGHT_STD = 0.02


@dataclass(frozen=True)
class SweepCounts:
    """Of the other model: sweeps of the deep block per latent frame, for each of `SHARES`, and those of a shallow one.

    The shallow one runs in windows of a whole frame.
    """

    deep: Sequence[float]
    shallow: float


@dataclass(frozen=True)
class Projected:
    """One way to sample a clip, from noise to latents. Only `sweep_s` is measured; seconds are projected from it.

    `window` is the tokens of the deep block evaluated at once, 1 for token by token, which also is how the shallow
    blocks then run; otherwise they run in windows of a whole frame. `sweeps` are those of the deep block.
    """

    window: int
    sweep_s: float
    sweeps: float
    deep_s: float
    shallow_s: float
    seconds: float


@dataclass(frozen=True)
class Projection:
    """`floor_s` is the seconds of one parallel pass through every block, with both branches in the deep one."""

    num_frames: int
    num_tokens: int
    floor_s: float
    rows: list[Projected]


def count_sweeps(pipeline: StarFlowPipeline, seed: int, say: Callable[[str], None]) -> SweepCounts:
    """The sweeps of a model that can sample, on one clip of its own length."""
    codec, config = pipeline.codec, pipeline.config
    frame_tokens = (config.height // codec.spatial_factor) * (config.width // codec.spatial_factor)
    num_latent_frames = codec.num_latent_frames(config.num_frames)
    rows = measure_windows(pipeline, [max(1, round(share * frame_tokens)) for share in SHARES], 1, seed, say)

    def sweeps(blocks: str) -> list[WindowRow]:
        return [row for row in rows if row.blocks == blocks]

    whole_frame = sweeps("shallow")[SHARES.index(1.0)]
    return SweepCounts(
        [row.sweeps / num_latent_frames for row in sweeps("deep")],
        whole_frame.sweeps / len(pipeline.flow.shallow),
    )


@torch.no_grad()
def project(
    architecture: Architecture,
    counts: SweepCounts,
    num_frames: int,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    say: Callable[[str], None],
) -> Projection:
    """Time the flow of `architecture` on `device`, with random weights that it keeps; seconds are the least of repeats.

    Raises UsageError if its VAE makes no clips of `num_frames`.
    """
    settings = architecture.pipeline().config
    codec = VideoCodec(architecture.vae)
    grid = (
        codec.num_latent_frames(num_frames),
        settings.height // codec.spatial_factor,
        settings.width // codec.spatial_factor,
    )
    say("making random weights")
    flow = architecture.flow.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in flow.parameters():
        parameter.normal_(std=WEIGHT_STD, generator=generator)
    clock = _Clock(flow, grid, settings.guidance_scale, settings.max_text_tokens, repeats)
    frame_tokens = grid[1] * grid[2]
    say("one pass through every block")
    shallow_passes = [clock.shallow_pass(index) for index in range(len(flow.shallow))]
    floor = clock.deep_pass() + sum(shallow_passes)
    say("token by token")
    token, shallow_tokens = clock.deep_sweep(1), [clock.shallow_token(index) for index in range(len(flow.shallow))]
    num_tokens = grid[0] * frame_tokens
    rows = [_row(1, token, num_tokens, frame_tokens * sum(shallow_tokens))]
    for share, sweeps_per_frame in zip(SHARES, counts.deep, strict=True):
        window = min(max(1, round(share * frame_tokens)), num_tokens)
        say(f"{window} tokens at once")
        sweep = clock.deep_sweep(window)
        rows.append(_row(window, sweep, grid[0] * sweeps_per_frame, counts.shallow * sum(shallow_passes)))
    return Projection(num_frames, num_tokens, floor, rows)


def _row(window: int, sweep_s: float, sweeps: float, shallow_s: float) -> Projected:
    deep_s = sweeps * sweep_s
    return Projected(window, sweep_s, sweeps, deep_s, shallow_s, deep_s + shallow_s)


class _Clock:
    """The seconds of passes through the blocks of a flow, for one clip of `grid = (T, H, W)`."""

    def __init__(
        self, flow: StarFlow, grid: tuple[int, int, int], guidance_scale: float, num_text_tokens: int, repeats: int
    ) -> None:
        self.flow, self.grid, self.repeats = flow, grid, repeats
        self.guidance_scale = guidance_scale
        self.device = flow.deep.proj_in.weight.device
        self.text = self._zeros(1, num_text_tokens, flow.config["text_width"])
        self.tokens = self._zeros(1, grid[0] * grid[1] * grid[2], flow.config["latent_channels"])

    def deep_pass(self) -> float:
        """One pass over the whole clip, without a cache, in all branches."""
        branches = 2 if self.guidance_scale else 1
        rotation = self.flow.rotation(self.flow.num_blocks - 1, self.grid, self.text.shape[1])
        v, text = (tensor.repeat(branches, 1, 1) for tensor in (self.tokens, self.text))
        return self._least(lambda: self.flow.deep.predict(v, rotation, text))

    def deep_sweep(self, window: int) -> float:
        """One evaluation of `window` tokens in the middle of the clip, all before them in the cache."""
        gaussians = self.flow.conditional(
            self.flow.num_blocks - 1, 1, self.grid, self.text, self.text, self.guidance_scale
        )
        start = (self.tokens.shape[1] - window) // 2
        gaussians.cache.advance(start)
        return self._least(lambda: gaussians.evaluate(self.tokens, start, start + window))

    def shallow_pass(self, index: int) -> float:
        """One pass of a shallow block over all frames."""
        rotation = self.flow.rotation(index, self.grid)
        return self._least(lambda: self.flow.shallow[index].predict(self._frames(), rotation))

    def shallow_token(self, index: int) -> float:
        """One token in the middle of every frame, those before it in the cache."""
        frames = self._frames()
        gaussians = self.flow.conditional(index, len(frames), (1, *self.grid[1:]))
        middle = frames.shape[1] // 2
        gaussians.cache.advance(middle)
        return self._least(lambda: gaussians.evaluate(frames, middle, middle + 1))

    def _frames(self) -> torch.Tensor:
        return self.tokens.reshape(self.grid[0], -1, self.tokens.shape[-1])

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, device=self.device)

    def _least(self, work: Callable[[], Any]) -> float:
        work()
        return min(timed(work)[1] for _ in range(self.repeats))
