"""Training a causal video autoencoder (VAE) on clips: `VAEStep` is one step of it, `train_vae` all of it.

Legend: B batch, F video frames, T latent frames, H W latent rows and columns, D latent channels. Clips are
(B, F, 3, height, width) in [-1, 1]; a `video` has diffusers' layout, (B, 3, F, height, width).
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from starflow.config import save_config
from starflow.data.loader import ClipLoader
from starflow.encoders.video import VideoCodec, wan_decode, wan_moments
from starflow.errors import UsageError
from starflow.media.files import atomic_write
from starflow.media.frames import psnr
from starflow.train.checkpoint import TrainState
from starflow.train.config import LoopConfig, Phase, VAEModelConfig, VAETrainConfig
from starflow.train.loop import (
    autocast,
    create_state,
    micro_generator,
    parameter_groups,
    resume_or_start,
    seed_everything,
    train,
)
from starflow.train.pixel_weights import load_pixel_weights
from starflow.train.principal_axes import normalise_latents
from starflow.train.vae_data import VAEData

NUM_STATISTICS_CLIPS = 500  # training clips that the scale of the latents is measured on
GRID_CLIPS, GRID_FRAMES = 6, 5  # of the preview


def build_vae(config: VAEModelConfig) -> AutoencoderKLWan:
    """An autoencoder with fresh weights."""
    vae = AutoencoderKLWan(
        base_dim=config.base_dim,
        decoder_base_dim=config.decoder_base_dim,
        z_dim=config.z_dim,
        dim_mult=config.dim_mult,
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=config.temporal_downsample,
        is_residual=config.is_residual,
        in_channels=3 * config.patch_size**2,
        out_channels=3 * config.patch_size**2,
        patch_size=config.patch_size,
        scale_factor_temporal=2 ** sum(config.temporal_downsample),
        scale_factor_spatial=2 ** (len(config.dim_mult) - 1) * config.patch_size,
        latents_mean=[0.0] * config.z_dim,
        latents_std=[1.0] * config.z_dim,
    )
    return _fast_layout(vae)


def _fast_layout(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Bring the convolutions' weights into the memory layout that is fastest on CPUs."""
    for parameter in vae.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def load_for_decoder_training(folder: str) -> AutoencoderKLWan:
    """A trained autoencoder with a frozen encoder: its latents stay as they are, and flows trained on them stay valid.

    Raises:
        UsageError: there is no autoencoder in `folder`.
    """
    if not Path(folder, "config.json").is_file():
        raise UsageError(f"no autoencoder at {folder} (decoder_of): train it first")
    vae = AutoencoderKLWan.from_pretrained(folder)
    for module in (vae.encoder, vae.quant_conv):
        module.requires_grad_(False)
    return _fast_layout(vae)


def posterior_means(vae: AutoencoderKLWan, video: Tensor, excerpt_frames: int | None = None) -> Tensor:
    """Posterior means (B, D, T, H, W) of (B, 3, F, height, width).

    With `excerpt_frames` the video is cut into excerpts of so many frames, and each is encoded by itself. An excerpt
    begins with the last frame of the one before it; the latent frame of this frame is left out.
    """
    if excerpt_frames is None:
        return wan_moments(vae, video).chunk(2, dim=1)[0]
    means = []
    for start in range(0, max(video.shape[2] - 1, 1), excerpt_frames - 1):
        excerpt = posterior_means(vae, video[:, :, start : start + excerpt_frames])
        means.append(excerpt if start == 0 else excerpt[:, :, 1:])
    return torch.cat(means, dim=2)


def reconstruction_loss(reconstruction: Tensor, video: Tensor, weights: Tensor | None) -> Tensor:
    """Mean squared error of two (B, 3, F, height, width), with or without `weights` (B, 1, F, height, width)."""
    error = (reconstruction - video).square()
    return error.mean() if weights is None else (weights * error).sum() / (3 * weights.sum())


class VAEStep:
    """One training step: clips → posterior → noisy latents → clips, and the gradient of the loss.

    With `excerpt_frames`, the length of the clips that a flow will be trained on, longer clips are encoded whole in one
    micro step and excerpt by excerpt in the next: the latents of a longer video that such a flow makes are like those
    of the excerpts.
    """

    def __init__(self, vae: AutoencoderKLWan, clips: ClipLoader, config: VAETrainConfig) -> None:
        self.vae, self.clips, self.config = vae, clips, config
        self.pixel_weights = load_pixel_weights(config.loss.pixel_weights)

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        """Add the gradients of `scale` times the loss; see `starflow.train.loop.TrainingStep`."""
        config, loop = self.config, self.config.loop
        phase, num_clips = phase_at(config.phases, step)
        position = num_clips * loop.accumulation + micro_step * phase.batch_size
        clips = self.clips.excerpts(position, phase.batch_size, phase.num_frames)
        video = clips.transpose(1, 2).to(loop.device)
        is_odd = (step * loop.accumulation + micro_step) % 2 == 1
        with autocast(loop):
            mean = posterior_means(self.vae, video, config.excerpt_frames if is_odd else None).float()
            noise = self._noise(mean.detach(), micro_generator(loop, step, micro_step))
            reconstruction = wan_decode(self.vae, mean + noise).float()
        weights = None if self.pixel_weights is None else self.pixel_weights(video)
        kl = 0.5 * mean.square().mean()  # from N(0, I), of a posterior of fixed variance, up to a constant
        loss = reconstruction_loss(reconstruction, video, weights) + config.loss.kl_weight * kl
        (scale * loss).backward()
        quality = psnr(reconstruction.detach().clamp(-1, 1), video).mean()
        return {"loss": loss.item(), "kl": kl.item(), "psnr": quality.item(), "clips": float(len(video))}

    def _noise(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        """Noise on the latents, stronger on some clips than on others: a flow's samples will not be exact either."""
        level = torch.rand(len(mean), 1, 1, 1, 1, generator=generator, device=mean.device)
        unit_noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return self.config.loss.latent_noise * level * mean.std() * unit_noise


def phase_at(phases: list[Phase], step: int) -> tuple[Phase, int]:
    """The phase that a step belongs to, and the sum of the batch sizes of all steps before this step.

    The last phase has no end.
    """
    num_clips = 0
    for phase in phases[:-1]:
        if step < phase.num_steps:
            return phase, num_clips + step * phase.batch_size
        step -= phase.num_steps
        num_clips += phase.num_steps * phase.batch_size
    return phases[-1], num_clips + step * phases[-1].batch_size


@torch.no_grad()
def reconstruct(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Encode and decode (B, F, 3, height, width), through the posterior's mean."""
    means = posterior_means(vae, clips.transpose(1, 2))
    return wan_decode(vae, means).transpose(1, 2).float().clamp(-1, 1)


def evaluate(vae: AutoencoderKLWan, clips: Iterable[Tensor], loop: LoopConfig) -> tuple[float, Tensor]:
    """How well clips (1, F, 3, height, width) are reconstructed.

    Returns:
        The mean of the clips' PSNR in dB, and a picture (3, height, width) in [0, 1]: some frames of each of the first
        clips in a row, and the reconstructions below them.
    """
    values: list[Tensor] = []
    rows: list[Tensor] = []
    for clip in clips:
        original = clip.to(loop.device)
        with autocast(loop):
            reconstruction = reconstruct(vae, original)
        values.append(psnr(reconstruction, original))
        if len(rows) < 2 * GRID_CLIPS:
            rows += [film_strip(original[0]), film_strip(reconstruction[0])]
    return torch.cat(values).mean().item(), torch.cat(rows, dim=1) / 2 + 0.5


def film_strip(video: Tensor) -> Tensor:
    """`GRID_FRAMES` evenly spaced frames of (F, 3, height, width), side by side; short videos repeat some."""
    shown = torch.linspace(0, len(video) - 1, GRID_FRAMES).round().long()
    return video[shown].permute(1, 2, 0, 3).flatten(2)


@torch.no_grad()
def training_latents(vae: AutoencoderKLWan, data: VAEData) -> Tensor:
    """Posterior means (B, D, T, H, W) of some training clips, float64."""
    num_clips = min(NUM_STATISTICS_CLIPS, len(data.train.indices))
    clips = (data.train.excerpts(position, 1, data.num_frames) for position in range(num_clips))
    return torch.cat([posterior_means(vae, clip.transpose(1, 2).to(vae.device)) for clip in clips]).double()


def save_vae(vae: AutoencoderKLWan, folder: Path) -> None:
    """Write a `save_pretrained` folder."""
    vae.register_to_config(_name_or_path="")  # no path of this machine
    with atomic_write(folder) as temporary:
        vae.save_pretrained(temporary)


def train_vae(config: VAETrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says; returns the folder of the final autoencoder, `output`/final.

    With `decoder_of` the architecture is that of the autoencoder there, not `model`.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as `VAEData` and `starflow.train.loop` do.
    """
    output = Path(config.output)
    seed_everything(config.loop.seed)
    vae = build_vae(config.model) if config.decoder_of is None else load_for_decoder_training(config.decoder_of)
    vae.to(config.loop.device)
    data = VAEData(config, VideoCodec(vae))
    step = VAEStep(vae, data.train, config)
    groups = parameter_groups("vae", vae, config.optimizer, not_muon=("conv_in", "conv_out"))
    state = create_state({"vae": vae}, groups, config.loop)
    resume_or_start(state, output, resume)
    with atomic_write(output / "config.yaml") as temporary:
        save_config(config, temporary)

    def preview(state: TrainState, writer: SummaryWriter) -> None:
        quality, grid = evaluate(vae, data.held_out(), config.loop)
        writer.add_scalar("held_out_psnr", quality, state.step)
        writer.add_image("reconstructions", grid, state.step)
        with (output / "held_out_psnr.jsonl").open("a") as file:
            file.write(json.dumps({"step": state.step, "psnr": round(quality, 3), "time": round(time.time())}) + "\n")

    train(state, step, config.loop, output, preview)
    with state.averaged_weights():
        if config.decoder_of is None:
            normalise_latents(vae, training_latents(vae, data))
        save_vae(vae, output / "final")
    return output / "final"
