"""Sampling one latent frame at a time, when actions and captions become known only as it goes on.

Each frame is sampled given the frames, the actions and the caption so far. The deep block's cache holds a rolling
window (`starflow.sampling.sampler.RollingWindow`), so neither memory nor the time of a frame grows.

Legend: `k` frames in the window, `H W` latent rows and columns, `D` latent channels, `M` text tokens, `E` action
features. The batch has one video.
"""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from starflow.flow.block import ConditionalGaussians
from starflow.flow.loss import negative_log_likelihood
from starflow.flow.model import Encoded, StarFlow
from starflow.sampling.sampler import Plan, RollingWindow, SamplingReport, invert_shallow
from starflow.sampling.solvers import Solvers, require_finite, solve


@dataclass(frozen=True)
class Caption:
    """Encodings `(1, M, text width)` of a caption.

    Attributes:
        text: from the first frame on.
        later_text: after the rolling window has left the first frame.
        null_text: of the empty caption, for guidance.
    """

    text: Tensor
    later_text: Tensor
    null_text: Tensor


class Rollout:
    """A video that grows frame by frame.

    `copy` is cheap: the copy shares the cache. Of all copies, only one and its own copies may go on; `fork` gives the
    cache of a second one.
    """

    def __init__(
        self,
        flow: StarFlow,
        caption: Caption,
        size: tuple[int, int],
        window: RollingWindow,
        solvers: Solvers,
        guidance_weight: float = 0.0,
    ) -> None:
        """
        Args:
            flow: the model.
            caption: of the first frames.
            size: `H` and `W`.
            window: with a size.
            solvers: how the blocks are inverted.
            guidance_weight: `w` of `starflow.flow.guidance.guide`.
        """
        assert window.size is not None
        self.flow, self.caption, self.size = flow, caption, size
        self.window, self.window_size = window, window.size
        self.solvers, self.guidance_weight = solvers, guidance_weight
        self.has_moved = False  # whether the window has left the first frame
        self.report = SamplingReport()
        weight, space = flow.deep.sos, flow.action_space
        precision = torch.promote_types(weight.dtype, torch.float32)
        self.frames = weight.new_zeros(1, 0, *size, weight.shape[-1], dtype=precision)  # u (1, k, H, W, D)
        self.actions = weight.new_zeros(1, 0, 0 if space is None else space.num_features)  # (1, k, E)
        self._gaussians: ConditionalGaussians | None = None  # made when they are needed
        self._num_cached = 0

    # --- what is done with it ----------------------------------------------------------------------------------------

    def copy(self) -> "Rollout":
        """The same video, which can go on instead of this one."""
        return copy(self)

    def fork(self) -> "Rollout":
        """The same video, which can go on beside this one."""
        other = copy(self)
        other.report = copy(self.report)
        if self._gaussians is not None:
            other._gaussians = self._gaussians.copy()
        return other

    def say(self, caption: Caption) -> None:
        """Change the caption from the next frame on. The frames in the window are encoded anew with it."""
        self.caption, self._gaussians = caption, None

    @torch.no_grad()
    def append(self, latents: Tensor, actions: Tensor) -> None:
        """Append given latents `(1, t, D, H, W)` at the noise level of training, and their actions `(1, t, E)`."""
        self._add(self.flow.encode_shallow(latents), actions)

    @torch.no_grad()
    def step(self, noise: Tensor, action: Tensor) -> Tensor:
        """Append the frame of `noise` `(1, 1, D, H, W)`, given an action `(1, 1, E)`; return its latents.

        Raises StarflowError if the sample has NaN.
        """
        self._make_room()
        deep = self.flow.num_blocks - 1
        z = self.flow.to_tokens(noise.permute(0, 1, 3, 4, 2).to(self.frames), deep)
        v, start = self._with_tokens(z)
        gaussians = self._prepare(action)
        self.report.deep += solve(self.solvers.deep, gaussians, v.clone(), v, start, v.shape[1], z.shape[1])
        self._num_cached = gaussians.cache.length
        u = self.flow.from_tokens(require_finite(v[:, start:], "a sampled frame"), deep, (1, *self.size))
        self._add(u, action)
        return invert_shallow(self.flow, u, Plan(noise, self.caption.text, solvers=self.solvers, report=self.report))

    @torch.no_grad()
    def surprise(self, latents: Tensor, action: Tensor) -> Tensor:
        """`-log p` of the tokens `(H, W)` of a next frame `(1, 1, D, H, W)`, in nats, without guidance.

        The rollout stays as it is. The latents have the noise level of training.
        """
        following = self.copy()
        following._make_room()
        deep = self.flow.num_blocks - 1
        u, log_det = latents.permute(0, 1, 3, 4, 2), torch.zeros((), device=latents.device)
        for index in range(deep):
            u, log_det_of_block = self.flow.run_block(index, u)
            log_det = log_det + log_det_of_block
        v, start = following._with_tokens(self.flow.to_tokens(u.to(self.frames), deep))
        mu, sigma = following._prepare(action).evaluate(v, start, v.shape[1], guidance_weight=0.0)
        grid = (1, *self.size)
        z = self.flow.from_tokens((v[:, start:] - mu) / sigma, deep, grid)
        log_det = log_det - self.flow.from_tokens(sigma.log(), deep, grid)
        nats = negative_log_likelihood(Encoded(z, log_det)).sum(dim=-1)
        return require_finite(nats[0, 0], "the surprise")

    # --- the window --------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Move the window if it is full."""
        if self.frames.shape[1] >= self.window_size:
            self.frames, self.actions = (each[:, -self.window.context :] for each in (self.frames, self.actions))
            self._gaussians, self.has_moved = None, True

    def _add(self, u: Tensor, actions: Tensor) -> None:
        self.frames = torch.cat([self.frames, u.to(self.frames)], dim=1)
        self.actions = torch.cat([self.actions, actions.to(self.actions)], dim=1)

    def _with_tokens(self, new: Tensor) -> tuple[Tensor, int]:
        """The tokens of the window and those of a new frame, in the deep block's order, and where the latter start."""
        known = self.flow.to_tokens(self.frames, self.flow.num_blocks - 1)
        return torch.cat([known, new], dim=1), known.shape[1]

    def _prepare(self, action: Tensor) -> ConditionalGaussians:
        """The Gaussians of the next frame, given an action `(1, 1, E)`."""
        if self._gaussians is None:
            self._gaussians = self.flow.conditional(
                self.flow.num_blocks - 1,
                1,
                (self.window_size, *self.size),
                self.caption.later_text if self.has_moved else self.caption.text,
                self.caption.null_text,
                self.guidance_weight,
            )
            self._num_cached = self._gaussians.cache.length
        self._gaussians.cache.rewind(self._num_cached)
        if self.actions.shape[-1]:
            actions = torch.cat([self.actions, action.to(self.actions)], dim=1)
            self._gaussians.set_actions(actions, self.size[0] * self.size[1])
        return self._gaussians
