"""The stages of making a video, as generators. Each stage processes frames as soon as the previous stage yields them.

    sampled    noise → deep block, frame by frame → shallow blocks
    denoised   the denoiser, some frames behind
    restored   clean latents replace those of given frames; hidden frames are dropped

Legend: `B` prompts, `T` latent frames, `t` some latent frames, `K` given latent frames, `D` latent channels, `H W`
latent rows and columns, `M` text tokens, `E` action features.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from starflow.encoders.device import onload
from starflow.flow.denoiser import CausalDenoiser, tweedie
from starflow.flow.denoiser_stream import stream_predictions
from starflow.flow.loss import flow_loss, score_prediction
from starflow.flow.model import StarFlow
from starflow.pipeline.inputs import Given
from starflow.sampling.sampler import FrameCallback, Plan, SamplingReport, sample
from starflow.sampling.solvers import require_finite


class StageClock:
    """The seconds that each stage took, in `seconds`. Stages take turns: a stage's clock stands while it waits."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since = 0.0

    def __call__(self, stage: str, pieces: Iterable[Tensor]) -> Generator[Tensor]:
        """The same pieces; the time in which they are made counts for `stage`."""
        iterator = iter(pieces)
        while True:
            waiting = self._switch(stage)
            try:
                piece = next(iterator, None)
            finally:
                self._switch(waiting)
            if piece is None:
                return
            yield piece

    def _switch(self, stage: str | None) -> str | None:
        """Count for another stage from now on; return the one before."""
        previous, now = self._stage, time.perf_counter()
        if previous is not None:
            self.seconds[previous] = self.seconds.get(previous, 0.0) + now - self._since
        self._stage, self._since = stage, now
        return previous


@dataclass
class VideoPlan:
    """A video to make.

    Attributes:
        sampling: the inputs of sampling; its latents include hidden frames.
        given: the clean latents of given frames.
        num_frames, fps: of the video.
        look_ahead: False to denoise each frame without later ones, so that it is ready at once.
        clock: the seconds that the stages take.
    """

    sampling: Plan
    given: Given | None
    num_frames: int
    fps: float
    look_ahead: bool = True
    clock: StageClock = field(default_factory=StageClock)


def sampled(flow: StarFlow, plan: Plan, frames_at_once: int, on_frame: FrameCallback | None = None) -> Iterator[Tensor]:
    """The pieces of `starflow.sampling.sampler.sample`. The flow is moved to its device before each piece."""
    pieces, num_ready = sample(flow, plan, frames_at_once, on_frame), 0
    while num_ready < plan.num_frames:
        onload(flow)
        piece = next(pieces, None)
        if piece is None:  # `on_frame` has stopped sampling
            return
        num_ready += piece.shape[1]
        yield piece


def denoised(
    flow: StarFlow,
    denoiser: CausalDenoiser | None,
    noise_std: float,
    pieces: Iterable[Tensor],
    text: Tensor,
    actions: Tensor | None = None,
    look_ahead: bool = True,
) -> Iterator[Tensor]:
    """Latents `(B, t, D, H, W)` at noise level `noise_std` → clean latents.

    A model without a denoiser uses the flow's score, for which the whole video must be sampled first. The score is
    given `actions` `(B, T, E)`; the denoiser is not. `look_ahead` is that of `stream_predictions`.
    """
    if denoiser is None:
        x = torch.cat(list(pieces), dim=1)
        onload(flow)
        yield denoise_by_score(flow, x, text, noise_std, None if actions is None else actions[:, : x.shape[1]])
        return
    frames = _frame_by_frame(pieces, denoiser)
    for x, prediction in stream_predictions(denoiser, frames, text, look_ahead=look_ahead):
        yield require_finite(tweedie(x, prediction, noise_std), "the denoised video")


def _frame_by_frame(pieces: Iterable[Tensor], denoiser: CausalDenoiser) -> Iterator[Tensor]:
    """Latent frames `(B, 1, D, H, W)`, one by one to save memory. The denoiser is moved to its device before each."""
    for piece in pieces:
        for frame in piece.split(1, dim=1):
            onload(denoiser)
            yield frame
    onload(denoiser)


def restored(pieces: Iterable[Tensor], given: Given | None) -> Iterator[Tensor]:
    """Clean latents `(B, t, D, H, W)`, with the clean latents of given frames and without hidden frames."""
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
    """A frame of a stream: its number, its time in seconds, and its picture in the `output_type` of the stream."""

    index: int
    time: float
    image: Any


class VideoStream:
    """The frames of one video, as they become ready. Closing the stream frees its memory.

    Each frame is made while `lock` is held, so that threads and streams can share a pipeline.
    """

    def __init__(self, images: Generator[Any], plan: VideoPlan, lock: RLock) -> None:
        self._images, self._index, self._lock = images, 0, lock
        self.num_frames, self.fps = plan.num_frames, plan.fps
        self.num_latent_frames = plan.sampling.num_frames
        self.report: SamplingReport = plan.sampling.report

    def __iter__(self) -> "VideoStream":
        return self

    def __next__(self) -> StreamedFrame:
        with self._lock:
            image = next(self._images)
        self._index += 1
        return StreamedFrame(self._index - 1, (self._index - 1) / self.fps, image)

    def close(self) -> None:
        """Stop making frames."""
        self._images.close()

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def denoise_by_score(
    flow: StarFlow, x: Tensor, text: Tensor, noise_std: float, actions: Tensor | None = None
) -> Tensor:
    """Denoise `x` `(B, T, D, H, W)` by the score of the flow: `x - noise_std² · ∇(-log p(x))`.

    Samples are denoised one after the other, so that the activations for the backward pass are those of one sample.
    The weights must not have been made under `torch.inference_mode`, which allows no gradients.
    """
    clean = []
    for index, (video, its_text) in enumerate(zip(x.split(1), text.split(1), strict=True)):
        with torch.inference_mode(False), torch.enable_grad():
            noisy = video.detach().clone().requires_grad_()
            its_actions = None if actions is None else actions[index, None].clone()
            (grad,) = torch.autograd.grad(flow_loss(flow.encode(noisy, its_text.clone(), its_actions)), noisy)
        clean.append(tweedie(video, score_prediction(grad, noise_std), noise_std))
    return torch.cat(clean)
