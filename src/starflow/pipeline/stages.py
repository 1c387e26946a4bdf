"""The stages of making a video, as generators: each takes what the one before it has ready.

    sampled    noise → deep block, frame by frame → shallow blocks
    denoised   denoiser, some frames behind
    restored   given frames are put back as they were; hidden ones are left out

Legend: `B` prompts, `T` latent frames, `t` some of them, `K` given ones, `D` latent channels, `H W` latent rows and
columns, `M` text tokens.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from starflow.encoders.device import onload
from starflow.flow.denoiser import CausalDenoiser, tweedie_step
from starflow.flow.denoiser_stream import stream_predictions
from starflow.flow.loss import flow_loss, score_prediction
from starflow.flow.model import StarFlow
from starflow.pipeline.inputs import Given
from starflow.sampling.sampler import FrameCallback, Plan, SamplingReport, sample
from starflow.sampling.solvers import require_finite


@dataclass
class VideoPlan:
    """What is sampled, and what becomes of it.

    Attributes:
        sampling: the plan of the latents, those of hidden frames included.
        given: the clean latents of given frames.
        num_frames, fps: of the video.
    """

    sampling: Plan
    given: Given | None
    num_frames: int
    fps: float


def sampled(flow: StarFlow, plan: Plan, frames_at_once: int, on_frame: FrameCallback | None = None) -> Iterator[Tensor]:
    """The pieces of `starflow.sampling.sampler.sample`. The flow is on its device when each is made."""
    pieces, num_made = sample(flow, plan, frames_at_once, on_frame), 0
    while num_made < plan.num_frames:
        onload(flow)
        piece = next(pieces)
        num_made += piece.shape[1]
        yield piece


def denoised(
    flow: StarFlow, denoiser: CausalDenoiser | None, noise_std: float, pieces: Iterable[Tensor], text: Tensor
) -> Iterator[Tensor]:
    """Latents `(B, t, D, H, W)` at noise level `noise_std` → clean ones.

    Without a denoiser, one step along the flow's own score, which needs the whole video first.
    """
    if denoiser is None:
        x = torch.cat(list(pieces), dim=1)
        onload(flow)
        yield score_step(flow, x, text, noise_std)
        return
    for x, prediction in stream_predictions(denoiser, _frame_by_frame(pieces, denoiser), text):
        yield require_finite(tweedie_step(x, prediction, noise_std), "the denoised video")


def _frame_by_frame(pieces: Iterable[Tensor], denoiser: CausalDenoiser) -> Iterator[Tensor]:
    """Latents `(B, 1, D, H, W)`, for which the denoiser needs least memory; it is on its device when each comes."""
    for piece in pieces:
        for frame in piece.split(1, dim=1):
            onload(denoiser)
            yield frame
    onload(denoiser)


def restored(pieces: Iterable[Tensor], given: Given | None) -> Iterator[Tensor]:
    """Clean latents `(B, t, D, H, W)`: those given are what they were, and hidden ones are left out."""
    index = 0
    for piece in pieces:
        if given is not None and index < given.num_frames:
            known = given.latents[:, index : index + piece.shape[1]].to(piece)
            piece = torch.cat([known, piece[:, known.shape[1] :]], dim=1)
        num_hidden = 0 if given is None else max(0, min(given.num_hidden - index, piece.shape[1]))
        index += piece.shape[1]
        if num_hidden < piece.shape[1]:
            yield piece[:, num_hidden:]


@dataclass(frozen=True)
class StreamedFrame:
    """A frame of a stream: its number, its time in seconds, and the picture as `output_type` asks for it."""

    index: int
    time: float
    image: Any


class VideoStream:
    """The frames of one video, as they become ready. Closing it frees the memory held for later frames."""

    def __init__(self, images: Generator[Any], plan: VideoPlan) -> None:
        self._images, self._index = images, 0
        self.num_frames, self.fps = plan.num_frames, plan.fps
        self.report: SamplingReport = plan.sampling.report

    def __iter__(self) -> "VideoStream":
        return self

    def __next__(self) -> StreamedFrame:
        image = next(self._images)
        self._index += 1
        return StreamedFrame(self._index - 1, (self._index - 1) / self.fps, image)

    def close(self) -> None:
        """Stop; no more frames come."""
        self._images.close()

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def score_step(flow: StarFlow, x: Tensor, text: Tensor, noise_std: float) -> Tensor:
    """Denoise `x` `(B, T, D, H, W)` by one step along the flow's own score: `x - noise_std² · ∇(-log p(x))`.

    One sample after the other, as the backward pass keeps the results of every layer: memory does not grow with `B`.
    """
    clean = []
    for video, its_text in zip(x.split(1), text.split(1), strict=True):
        with torch.enable_grad():
            noisy = video.detach().requires_grad_()
            (grad,) = torch.autograd.grad(flow_loss(flow.encode(noisy, its_text)), noisy)
        clean.append(tweedie_step(video, score_prediction(grad, noise_std), noise_std))
    return torch.cat(clean)
