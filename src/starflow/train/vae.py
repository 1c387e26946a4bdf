"""Training a causal video autoencoder (VAE) on clips: `VAEStep` is a training step, `train_vae` a whole run.

Legend: B batch, F video frames, T latent frames, H W latent rows and columns, D latent channels. Clips are
(B, F, 3, height, width) in [-1, 1]; a `video` has diffusers' layout, (B, 3, F, height, width).
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from starflow.config import save_config
from starflow.data.loader import ClipLoader
from starflow.encoders.video import VideoCodec, wan_decode, wan_moments
from starflow.errors import UsageError
from starflow.media.files import atomic_write
from starflow.media.frames import psnr
from starflow.train.config import LoopConfig, Phase, VAEModelConfig, VAETrainConfig
from starflow.train.loop import autocast, micro_generator, resume_or_start, seed_everything, train
from starflow.train.pixel_weights import load_pixel_weights
from starflow.train.principal_axes import normalise_latents
from starflow.train.processes import is_main, training_processes
from starflow.train.state import Trained, create_state
from starflow.train.vae_data import VAEData

NUM_STATISTICS_CLIPS = 500  # training clips that the scale of the latents is measured on
GRID_CLIPS, GRID_FRAMES = 6, 5  # of the preview


def build_vae(config: VAEModelConfig) -> AutoencoderKLWan:
    """An autoencoder with new weights."""
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
    """Store the weights of the convolutions in the memory layout that is fastest on CPUs."""
    for parameter in vae.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def load_for_decoder_training(folder: str) -> AutoencoderKLWan:
    """A trained autoencoder with a frozen encoder. Its latents do not change, so flows trained on them remain valid.

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

    With `excerpt_frames`, the video is cut into excerpts of this number of frames, which are encoded separately. An
    excerpt begins with the last frame of the previous one; the latent frame of this frame is left out.
    """
    if excerpt_frames is None:
        return wan_moments(vae, video).chunk(2, dim=1)[0]
    means = []
    for start in range(0, max(video.shape[2] - 1, 1), excerpt_frames - 1):
        excerpt = posterior_means(vae, video[:, :, start : start + excerpt_frames])
        means.append(excerpt if start == 0 else excerpt[:, :, 1:])
    return torch.cat(means, dim=2)


def reconstruction_loss(reconstruction: Tensor, video: Tensor, weights: Tensor | None) -> Tensor:
    """Mean squared error of (B, 3, F, height, width), with or without `weights` (B, 1, F, height, width)."""
    error = (reconstruction - video).square()
    return error.mean() if weights is None else (weights * error).sum() / (3 * weights.sum())


class NoisyAutoencoder(nn.Module):
    """An autoencoder whose forward pass is that of training, with noise on the latents."""

    def __init__(self, vae: AutoencoderKLWan, latent_noise: float) -> None:
        """`latent_noise` is that of `VAELossConfig`."""
        super().__init__()
        self.vae, self.latent_noise = vae, latent_noise

    def forward(
        self, video: Tensor, generator: torch.Generator, excerpt_frames: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Posterior means (B, D, T, H, W) and the reconstruction of (B, 3, F, height, width), both in float32."""
        mean = posterior_means(self.vae, video, excerpt_frames).float()
        return mean, wan_decode(self.vae, mean + self._noise(mean.detach(), generator)).float()

    def _noise(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        """Noise on the latents, with a random level for each clip, because the samples of a flow have errors too."""
        level = torch.rand(len(mean), 1, 1, 1, 1, generator=generator, device=mean.device)
        unit_noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return self.latent_noise * level * mean.std() * unit_noise


class VAEStep:
    """A training step: clips → posterior → noisy latents → clips, and the gradient of the loss.

    `excerpt_frames` is the length of the clips that a flow will be trained on. With it, longer clips are encoded whole
    or in excerpts, in alternate micro steps. The latents of a long video from such a flow are like those of excerpts.
    """

    def __init__(self, model: NoisyAutoencoder, clips: ClipLoader, config: VAETrainConfig) -> None:
        self.model, self.clips, self.config = model, clips, config
        self.pixel_weights = load_pixel_weights(config.loss.pixel_weights)

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        """Add the gradients of `scale` times the loss; see `starflow.train.loop.TrainingStep`."""
        config, loop = self.config, self.config.loop
        phase, num_clips = phase_at(config.phases, step)
        position = num_clips * loop.accumulation + micro_step * phase.batch_size
        start = time.perf_counter()
        clips, marks = self.clips.marked_excerpts(position, phase.batch_size, phase.num_frames)
        data_seconds = time.perf_counter() - start
        video = clips.transpose(1, 2).to(loop.device)
        is_odd = (step * loop.accumulation + micro_step) % 2 == 1
        with autocast(loop):
            mean, reconstruction = self.model(
                video, micro_generator(loop, step, micro_step), config.excerpt_frames if is_odd else None
            )
        weights = self._weights(video, marks)
        kl = 0.5 * mean.square().mean()  # to N(0, I), for a posterior of fixed variance, up to a constant
        loss = reconstruction_loss(reconstruction, video, weights) + config.loss.kl_weight * kl
        (scale * loss).backward()
        quality = psnr(reconstruction.detach().clamp(-1, 1), video).mean()
        return {
            "loss": loss.item(),
            "kl": kl.item(),
            "psnr": quality.item(),
            "clips": float(len(video)),
            "data_seconds": data_seconds,
        }

    def _weights(self, video: Tensor, marks: Tensor | None) -> Tensor | None:
        """The weights (B, 1, F, height, width) of the pixels of a video. `marks` are (B, F, 1, height, width)."""
        mark_weight = self.config.loss.mark_weight
        weights = None if self.pixel_weights is None else self.pixel_weights(video)
        if mark_weight is None:
            return weights
        if marks is None:
            raise UsageError("loss.mark_weight needs a source that marks pixels: leave it out")
        raised = 1 + (mark_weight - 1) * marks.transpose(1, 2).to(video.device)
        return raised if weights is None else weights * raised


def phase_at(phases: list[Phase], step: int) -> tuple[Phase, int]:
    """The phase of a step, and the sum of the batch sizes of all earlier steps. The last phase has no end."""
    num_clips = 0
    for phase in phases[:-1]:
        if step < phase.num_steps:
            return phase, num_clips + step * phase.batch_size
        step -= phase.num_steps
        num_clips += phase.num_steps * phase.batch_size
    return phases[-1], num_clips + step * phases[-1].batch_size


@torch.no_grad()
def reconstruct(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Encode clips (B, F, 3, height, width) to the posterior's mean, and decode it."""
    means = posterior_means(vae, clips.transpose(1, 2))
    return wan_decode(vae, means).transpose(1, 2).float().clamp(-1, 1)


def evaluate(vae: AutoencoderKLWan, clips: Iterable[Tensor], loop: LoopConfig) -> tuple[float, Tensor]:
    """Measure the reconstructions of clips (1, F, 3, height, width).

    Returns:
        The mean PSNR of the clips in dB, and a picture (3, height, width) in [0, 1] with frames of the first clips and
        of their reconstructions.
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
    """`GRID_FRAMES` evenly spaced frames of (F, 3, height, width), side by side; those of short videos may repeat."""
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
    vae.register_to_config(_name_or_path="")  # a local path
    with atomic_write(folder) as temporary:
        vae.save_pretrained(temporary)


def train_vae(config: VAETrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says, in all processes that torchrun has started.

    With `decoder_of`, the architecture is that of the trained autoencoder, and `model` is ignored.

    Returns the folder of the final autoencoder, `output`/final.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as in `VAEData` and `starflow.train.loop`.
    """
    with training_processes(config.loop.device):
        return _train_vae(config, resume)


def _train_vae(config: VAETrainConfig, resume: bool) -> Path:
    output = Path(config.output)
    seed_everything(config.loop.seed)
    vae = build_vae(config.model) if config.decoder_of is None else load_for_decoder_training(config.decoder_of)
    data = VAEData(config, VideoCodec(vae))
    model = NoisyAutoencoder(vae, config.loss.latent_noise)
    state = create_state(
        {"vae": Trained(model, config.optimizer, not_muon=("conv_in", "conv_out"))}, config.loop, config.parallel
    )
    resume_or_start(state, output, resume)
    if is_main():
        with atomic_write(output / "config.yaml") as temporary:
            save_config(config, temporary)

    def preview(modules: Mapping[str, nn.Module], writer: SummaryWriter, step: int) -> None:
        quality, grid = evaluate(_autoencoder(modules), data.held_out(), config.loop)
        writer.add_scalar("held_out_psnr", quality, step)
        writer.add_image("reconstructions", grid, step)
        with (output / "held_out_psnr.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "psnr": round(quality, 3), "time": round(time.time())}) + "\n")

    train(state, VAEStep(model, data.train, config), config.loop, output, preview)
    averaged = state.averaged()
    if is_main():
        vae = _autoencoder(averaged)
        if config.decoder_of is None:
            normalise_latents(vae, training_latents(vae, data))
        save_vae(vae, output / "final")
    return output / "final"


def _autoencoder(modules: Mapping[str, nn.Module]) -> AutoencoderKLWan:
    return cast(NoisyAutoencoder, modules["vae"]).vae
