"""The exact log-likelihood of a clip under a caption, token by token, by the change of variables.

    x = latents of the clip + noise_std·ε        the flow is a density of x; ε is drawn K times
    log p(x) = sum over tokens of deep + shallow
    deep     = log N(z; 0, I) - log sigma of the deep block = log p(u_t | u_<t, caption)
    shallow  = -log sigma, summed over the shallow blocks, which see no text

The latents are the mean of the VAE's posterior. This is a likelihood of noised latents, not of pixels: what the VAE
loses and the variance of its posterior do not count.

Legend: `F` video frames, `K` draws of the noise, `B` batch, `T` latent frames, `H W` latent rows and columns, `D`
latent channels, `M` text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from starflow.errors import UsageError
from starflow.flow.loss import add_noise, negative_log_likelihood
from starflow.flow.model import Encoded, StarFlow
from starflow.flow.transformer import at_least_float32
from starflow.pipeline.actions import encode_actions
from starflow.pipeline.inputs import encode_clips
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import require_finite


@dataclass(frozen=True)
class Estimate:
    """A mean over draws of the noise, and its standard error (None for a single draw)."""

    mean: float
    standard_error: float | None

    @classmethod
    def of(cls, draws: Tensor) -> "Estimate":
        """The mean of `(K,)` values."""
        error = draws.std().item() / sqrt(len(draws)) if len(draws) > 1 else None
        return cls(draws.mean().item(), error)


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood of one clip under one caption.

    Attributes:
        deep, shallow: the two parts of each token's log-likelihood in nats, `(K, T, H, W)`, float64 on the CPU.
        num_dims: dimensions of the clip's latents, `T·D·H·W`.
    """

    deep: Tensor
    shallow: Tensor
    num_dims: int

    @property
    def tokens(self) -> Tensor:
        """Each token's log-likelihood in nats, `(K, T, H, W)`."""
        return self.deep + self.shallow

    @property
    def log_likelihood(self) -> Estimate:
        """Log-likelihood of the whole clip, in nats."""
        return Estimate.of(self.tokens.flatten(1).sum(dim=1))

    @property
    def nats_per_dim(self) -> float:
        """Negative log-likelihood per latent dimension, in nats; lower is likelier."""
        return -self.log_likelihood.mean / self.num_dims

    @property
    def bits_per_dim(self) -> float:
        """Negative log-likelihood per latent dimension, in bits."""
        return self.nats_per_dim / log(2)

    @property
    def per_frame(self) -> Tensor:
        """Log-likelihood of each latent frame given those before it, in nats, `(T,)`; the sum is that of the clip."""
        return self.tokens.mean(dim=0).sum(dim=(1, 2))

    @property
    def surprise(self) -> Tensor:
        """Negative log-likelihood of each token, in nats, `(T, H, W)`."""
        return -self.tokens.mean(dim=0)

    def gain(self, other: "Likelihood") -> Estimate:
        """Log-likelihood minus that of `other`, the same clip with the same noise, in nats."""
        return Estimate.of((self.tokens - other.tokens).flatten(1).sum(dim=1))


def log_likelihood(
    pipeline: StarFlowPipeline,
    clip: NDArray[np.uint8],
    prompts: Sequence[str],
    *,
    actions: ArrayLike | None = None,
    noise_samples: int = 1,
    seed: int = 0,
) -> list[Likelihood]:
    """The log-likelihood of a clip under each of several captions, all with the same noise.

    Args:
        pipeline: the model.
        clip: `(F, height, width, 3)`, RGB, at the model's frame rate.
        prompts: captions; the empty one gives the unconditional likelihood.
        actions: of a player, as in `starflow.pipeline.options.Options`, for a model that takes them.
        noise_samples: `K`, the number of draws of the noise.
        seed: the seed of the noise.

    Raises:
        UsageError: there is no caption or no draw, or the VAE cannot encode a clip of this size or length,
            or the actions are none of the model's.
        StarflowError: a likelihood is not finite.
    """
    if not prompts or noise_samples < 1:
        raise UsageError("a likelihood needs at least one caption and one draw of the noise")
    flow, noise_std = pipeline.flow, pipeline.config.noise_std
    latents = encode_clips(pipeline.codec, [clip], (clip.shape[1], clip.shape[2])).to(flow.device)
    texts = pipeline.encode_prompt(prompts, caption_fps(pipeline, latents)).split(1)
    features = encode_actions(flow, pipeline.codec, actions, 1, len(clip))
    generator = torch.Generator().manual_seed(seed)
    deep: list[list[Tensor]] = [[] for _ in prompts]
    shallow: list[Tensor] = []
    with pipeline.progress_bar(total=noise_samples * len(prompts)) as bar:
        bar.set_description("likelihood")
        for _ in range(noise_samples):
            x = add_noise(latents, noise_std, generator)
            u, log_det = shallow_log_det(flow, x)
            shallow.append(log_det)
            for draws, text in zip(deep, texts, strict=True):
                draws.append(deep_log_likelihood(flow, u, text, features))
                bar.update()
    return [Likelihood(_on_cpu(draws), _on_cpu(shallow), latents.numel()) for draws in deep]


def comparable(one: StarFlowPipeline, other: StarFlowPipeline) -> bool:
    """Whether likelihoods of two models compare: their VAEs, noise levels and formats of clips are equal."""
    settings = ("noise_std", "later_frame_scale", "num_frames", "fps", "height", "width")
    public = [{name: value for name, value in each.vae.config.items() if name[0] != "_"} for each in (one, other)]
    if public[0] != public[1] or any(one.config[name] != other.config[name] for name in settings):
        return False
    theirs = other.vae.state_dict()
    return all(torch.equal(weight, theirs[name].to(weight)) for name, weight in one.vae.state_dict().items())


def caption_fps(pipeline: StarFlowPipeline, latents: Tensor) -> float:
    """The frame rate in the caption of latents `(B, T, D, H, W)`: the model's, or 0 for an image."""
    return pipeline.config.fps if latents.shape[1] > 1 else 0


@torch.no_grad()
def shallow_log_det(flow: StarFlow, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents `(B, T, D, H, W)` → `u` `(B, T, H, W, D)`, and the shallow part of each token `(B, T, H, W)`."""
    u = x.permute(0, 1, 3, 4, 2)
    total = torch.zeros_like(at_least_float32(u[..., 0]))
    for index in range(flow.num_blocks - 1):
        u, log_det = flow.run_block(index, u)
        total = total + log_det.sum(dim=-1)
    return u, total


@torch.no_grad()
def deep_log_likelihood(flow: StarFlow, u: Tensor, text: Tensor, actions: Tensor | None = None) -> Tensor:
    """`log p(u_t | u_<t, text, actions)` of each token `(B, T, H, W)`.

    `u` is `(B, T, H, W, D)`, `text` is `(B, M, text width)`, and `actions` are features `(B, T, E)`.
    """
    z, log_det = flow.run_block(flow.num_blocks - 1, u, text, actions)
    return -negative_log_likelihood(Encoded(z, log_det)).sum(dim=-1)


def _on_cpu(draws: list[Tensor]) -> Tensor:
    """`K` times `(1, T, H, W)` → `(K, T, H, W)`, float64 on the CPU, so that sums are as exact as their terms."""
    return require_finite(torch.cat(draws).cpu().double(), "the likelihood")
