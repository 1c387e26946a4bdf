"""A world that can be played: latent frames one by one, each given the past, an action and a caption.

Legend: `f` video frames of a step, `H W` latent rows and columns, `D` latent channels, `A` components of an action, `E`
action features.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from starflow.encoders.device import onload
from starflow.encoders.text import EXTEND
from starflow.encoders.video import DecoderStream
from starflow.errors import UsageError
from starflow.flow.denoiser import tweedie
from starflow.flow.denoiser_stream import DenoiserStream
from starflow.flow.guidance import weight_of
from starflow.flow.loss import add_noise
from starflow.media.frames import Frames, fit_frames, to_frames, to_tensor
from starflow.pipeline.actions import encode_actions, num_action_frames, require_action_space
from starflow.pipeline.inputs import encode_given
from starflow.pipeline.options import Options
from starflow.pipeline.pictures import VideoClip, to_uint8
from starflow.sampling.rollout import Caption, Rollout
from starflow.sampling.sampler import SamplingReport
from starflow.sampling.solvers import require_finite

if TYPE_CHECKING:
    from starflow.pipeline.pipeline import StarFlowPipeline

NOT_FOR_SESSIONS = ("num_frames", "latents", "num_videos_per_prompt", "last_image", "video", "extend")
ENCODED_CONTEXT = 4  # latent frames before a real frame with which the VAE encodes it


@dataclass(frozen=True)
class _Moment:
    """All that the next step depends on.

    Attributes:
        rollout, denoiser, decoder: what each stage keeps.
        noise_state: of the generator.
        latents: `(1, t, D, H, W)`, sampled, as far back as the denoiser looks.
        shown: the last frames, uint8 `(F, height, width, 3)`.
        num_new: how many of them this step has made, `f`.
    """

    rollout: Rollout
    denoiser: DenoiserStream
    decoder: DecoderStream
    noise_state: Tensor
    latents: Tensor
    shown: Frames
    num_new: int


class Session:
    """A video that a player continues step by step; made by `StarFlowPipeline.session`.

    A step makes one latent frame: as many video frames as the VAE compresses into one. It is denoised without the
    frames of the denoiser's look-ahead, which do not exist yet. So its pictures are those of a video that ends there.
    The sampled latents are those of `StarFlowPipeline.stream` with the same noise and the same solver, up to its
    tolerance.

    Memory does not grow, and a step takes as long after hours as at the beginning (rolling window).
    """

    def __init__(
        self,
        pipeline: "StarFlowPipeline",
        prompt: str = "",
        *,
        clip: VideoClip | None = None,
        max_rewind: int = 32,
        **options: Any,
    ) -> None:
        """See `StarFlowPipeline.session`."""
        for name in NOT_FOR_SESSIONS:
            if name in options:
                raise UsageError(f"a session has no {name}: give a prompt, and an image or a clip to start from")
        if pipeline.denoiser is None or pipeline.config.num_frames == 1:
            raise UsageError("a session needs a model of videos with a denoiser")
        if max_rewind < 0:
            raise UsageError(f"max_rewind must be 0 or more, not {max_rewind}")
        asked: Any = Options.parse(options | {"extend": clip}).with_defaults(pipeline.config)
        self._pipeline, self._codec, self._asked = pipeline, pipeline.codec, asked
        # Finding these takes milliseconds, which is much for a step.
        self._device, self._space = pipeline._execution_device, pipeline.flow.action_space
        self._size = (asked.height, asked.width)
        self._latent_shape = self._codec.latent_shape(1, 1, *self._size)
        with self._computing():
            self._given = encode_given(self._codec, asked, 1)
            self._given_actions = self._encode_given_actions()
            self._first_caption = self._caption(prompt)
        self._moments: deque[_Moment] = deque(maxlen=max_rewind + 1)
        self._generator = _own_generator(asked.generator)
        self._start_state = self._generator.get_state()
        self.reset()

    # --- what a player does ------------------------------------------------------------------------------------------

    @property
    def frames(self) -> Frames:
        """The frames of the last step, uint8 `(f, height, width, 3)`; at the start, the last one that is known."""
        moment = self._moments[-1]
        return moment.shown[-moment.num_new :]

    @property
    def frames_per_step(self) -> int:
        """`f`."""
        return self._codec.temporal_factor

    @property
    def fps(self) -> float:
        """Video frames per second."""
        return self._asked.fps

    @property
    def num_undoable(self) -> int:
        """How many steps `rewind` can go back."""
        return len(self._moments) - 1

    @property
    def report(self) -> SamplingReport:
        """What the solvers did since the start, and the largest residual."""
        return self._moments[-1].rollout.report

    def reset(self, generator: torch.Generator | None = None) -> Frames:
        """Go back to the start, with the first caption. Without a generator, the noise is also the same again."""
        if generator is None:
            self._generator.set_state(self._start_state)
        else:
            self._generator = _own_generator(generator)
            self._start_state = self._generator.get_state()
        with self._computing():
            start = self._begin()
        self._moments.clear()
        self._moments.append(start)
        return self.frames

    def step(self, action: ArrayLike | None = None) -> Frames:
        """The frames that follow, uint8 `(f, height, width, 3)`, given an action `(A,)`, or a number if `A` is 1.

        Without an action, the model makes what is likely after any.

        Raises:
            UsageError: the model takes no actions, or this is none of them.
            StarflowError: NaN in the sample.
        """
        features = self._features(action)
        with self._computing():
            self._moments.append(self._advance(self._moments[-1], features))
        return self.frames

    def rewind(self, num_steps: int = 1) -> Frames:
        """Go back some steps, also in the noise: the same actions give the same frames again.

        Raises UsageError if there are fewer steps, or they are longer ago than `max_rewind`.
        """
        if not 0 <= num_steps <= self.num_undoable:
            raise UsageError(f"this session can go back 0 to {self.num_undoable} steps, not {num_steps}")
        for _ in range(num_steps):
            self._moments.pop()
        self._generator.set_state(self._moments[-1].noise_state)
        return self.frames

    def fork(self) -> "Session":
        """A second session with the same past and the same noise to come. It cannot go back before the fork."""
        other, moment = copy(self), self._moments[-1]
        other._generator = self._generator.clone_state()
        other._moments = deque([replace(moment, rollout=moment.rollout.fork())], self._moments.maxlen)
        return other

    def say(self, prompt: str) -> None:
        """Change the caption from the next frame on. Going back before this call brings the old caption back."""
        moment = self._moments[-1]
        rollout = moment.rollout.copy()
        with self._computing():
            caption = self._caption(prompt)
            denoiser = self._denoiser_stream(moment.latents, caption)
        rollout.say(caption)
        self._moments[-1] = replace(moment, rollout=rollout, denoiser=denoiser)

    def surprise(self) -> NDArray[np.float32]:
        """How surprising the last step was: `-log p` of each token that it sampled, in nats, `(H, W)`.

        It is given the frames before and the action, without guidance, at the noise level of training: large where the
        flow was not sure of what would come, or where the noise was unlikely.

        Raises UsageError if there is no step that can be undone, which is what it starts from.
        """
        if not self.num_undoable:
            raise UsageError("a session has a surprise after a step, and with max_rewind of 1 or more")
        before, now = self._moments[-2], self._moments[-1]
        with self._computing():
            onload(self._pipeline.flow)
            rollout = before.rollout.fork()  # a cache of its own: that of the session keeps every bit
            return rollout.surprise(now.latents[:, -1:], now.rollout.actions[:, -1:]).float().cpu().numpy()

    def score(self, frames: Any, action: ArrayLike | None = None) -> NDArray[np.float32]:
        """How surprising real frames would be after the last step: `-log p` of each token in nats, `(H, W)`.

        Args:
            frames: `(f, height, width, 3)`, or in another form of a clip; `(height, width, 3)` if `f` is 1.
            action: that led to them.

        Raises:
            UsageError: these are not `f` frames, or the action is not one of the model's.
        """
        clip = to_uint8("frames", frames)
        clip = clip[None] if clip.ndim == 3 else clip
        if clip.ndim != 4 or len(clip) != self.frames_per_step:
            raise UsageError(f"frames must be the {self.frames_per_step} frames of a step, not {clip.shape}")
        features, moment, pipeline = self._features(action), self._moments[-1], self._pipeline
        video = np.concatenate([moment.shown, fit_frames(clip, *self._size)])
        with self._computing():
            latents = self._codec.encode(to_tensor(video)[None])[:, -1:].to(self._device)
            noisy = add_noise(latents, pipeline.config.noise_std, torch.Generator().manual_seed(0))
            onload(pipeline.flow)
            return moment.rollout.surprise(noisy, features).float().cpu().numpy()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No other thread uses the model now. Inference mode saves a tenth of the time of a small model."""
        with self._pipeline._lock, torch.inference_mode():
            yield

    # --- how a step is made ------------------------------------------------------------------------------------------

    def _begin(self) -> _Moment:
        pipeline, caption = self._pipeline, self._first_caption
        size, device = self._latent_shape[3:], self._device
        window = pipeline.rolling_window(self._asked.context)
        solvers, weight = pipeline.solvers(self._asked), weight_of(self._asked.guidance_scale)
        rollout = Rollout(pipeline.flow, caption, size, window, solvers, weight)
        decoder, latents = DecoderStream(self._codec), torch.zeros(self._latent_shape, device=device)[:, :0]
        shown = np.zeros((0, *self._size, 3), np.uint8)
        if self._given is None:
            start = _Moment(
                rollout, self._denoiser_stream(latents, caption), decoder, torch.empty(0), latents, shown, 0
            )
            return self._advance(start, self._features(None))
        clean = self._given.latents.to(device)
        latents = add_noise(clean, pipeline.config.noise_std, self._generator)
        onload(pipeline.flow)
        rollout.append(latents, self._given_actions)
        denoiser = self._denoiser_stream(latents, caption)
        pieces = [to_frames(decoder(frame)[0]) for frame in clean.split(1, dim=1)]
        shown, latents = self._trimmed(np.concatenate(pieces), latents)
        return _Moment(rollout, denoiser, decoder, self._generator.get_state(), latents, shown, 1)

    def _advance(self, moment: _Moment, action: Tensor) -> _Moment:
        """The moment one step later. The given one stays as it is."""
        pipeline = self._pipeline
        rollout, denoiser, decoder = moment.rollout.copy(), moment.denoiser.copy(), moment.decoder.copy()
        noise = randn_tensor(self._latent_shape, self._generator, self._device, torch.float32)
        onload(pipeline.flow)
        x = rollout.step(noise, action)
        onload(denoiser.denoiser)
        clean = tweedie(x, denoiser.without_look_ahead(x), pipeline.config.noise_std)
        clean = require_finite(clean, "the denoised video")
        new = to_frames(require_finite(decoder(clean), "the decoded video")[0])
        shown, latents = self._trimmed(np.concatenate([moment.shown, new]), torch.cat([moment.latents, x], dim=1))
        return _Moment(rollout, denoiser, decoder, self._generator.get_state(), latents, shown, len(new))

    def _trimmed(self, shown: Frames, latents: Tensor) -> tuple[Frames, Tensor]:
        """The last frames and latents, as many as are needed."""
        assert self._pipeline.denoiser is not None
        return shown[-1 - ENCODED_CONTEXT * self.frames_per_step :], latents[
            :, -self._pipeline.denoiser.config["window"] :
        ]

    def _denoiser_stream(self, latents: Tensor, caption: Caption) -> DenoiserStream:
        """The denoiser after some latents `(1, t, D, H, W)`."""
        assert self._pipeline.denoiser is not None
        onload(self._pipeline.denoiser)
        stream = DenoiserStream(self._pipeline.denoiser, latents, caption.text)
        if latents.shape[1]:
            list(stream(latents, is_last=False))
        return stream

    def _caption(self, prompt: str) -> Caption:
        if not isinstance(prompt, str):
            raise UsageError(f"the prompt of a session must be a string, not {prompt!r:.80}")
        self._pipeline.warn_of_unknown_words([prompt])
        prompts = [prompt, EXTEND + prompt if prompt else "", ""]
        return Caption(*self._pipeline.encode_prompt(prompts, self._asked.fps, self._size).split(1))

    def _features(self, action: ArrayLike | None) -> Tensor:
        """Features `(1, 1, E)` of an action; zeros if it is None."""
        if action is None:
            num_features = 0 if self._space is None else self._space.num_features
            return torch.zeros(1, 1, num_features, device=self._device)
        space = self._space or require_action_space(self._pipeline.flow)  # which raises
        return space.features(space.check(np.asarray(action)[None], 1))[None].to(self._device)

    def _encode_given_actions(self) -> Tensor:
        """Features `(1, K, E)` of the actions of the given frames; zeros if they are not known."""
        num_latents = 0 if self._given is None else self._given.num_frames
        actions = self._asked.actions
        if actions is None:
            return self._features(None).expand(1, num_latents, -1)
        num_frames = max(0, 1 + (num_latents - 1) * self.frames_per_step)
        if num_action_frames(actions) != num_frames:
            raise UsageError(f"actions must be those of the {num_frames} given frames; later ones are for step()")
        features = encode_actions(self._pipeline.flow, self._codec, actions, 1, num_frames)
        assert features is not None
        return features


def _own_generator(generator: torch.Generator | None) -> torch.Generator:
    """A generator that continues like the given one, or with a random seed."""
    if generator is None:
        own = torch.Generator()
        own.seed()
        return own
    if not isinstance(generator, torch.Generator):
        raise UsageError(f"generator must be a torch.Generator, not {generator!r:.80}")
    return generator.clone_state()
