"""Training a causal video autoencoder on toyworld: `VAEStep` is one step of it, `train_vae` all of it.

Legend: B batch, F video frames, T latent frames, H W latent rows and columns, D latent channels. Video tensors here
have diffusers' layout, (B, 3, F, height, width).
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from starflow.config import save_config
from starflow.encoders.video import wan_decode, wan_moments
from starflow.errors import UsageError
from starflow.media.files import atomic_write
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Split, scene_at
from starflow.toyworld.world.vocabulary import NUM_FRAMES
from starflow.train.checkpoint import TrainState
from starflow.train.config import Stage, VAEModelConfig, VAETrainConfig
from starflow.train.loop import (
    autocast,
    create_state,
    micro_generator,
    parameter_groups,
    resume_or_start,
    seed_everything,
    train,
)
from starflow.train.principal_axes import turn_to_principal_axes

TEST_SEED = 1_000_003  # of the held-out clips that the PSNR is measured on
OBJECT_THRESHOLD = 0.02  # how far from the background a pixel of an object is, in [-1, 1]
MARGIN = 3  # pixels around an object in which its outline can go wrong
TYPICAL_SHARE = 0.2  # of a clip's pixels that are of objects or so close to one
EVALUATION_BATCH = 8
NUM_SAMPLES = 6  # clips in the sample grid, which shows every fourth frame
NUM_STATISTICS_CLIPS = 500


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
    """The memory layout of the convolutions' weights that CPUs are fastest with."""
    for parameter in vae.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def load_for_decoder_training(folder: str) -> AutoencoderKLWan:
    """A trained autoencoder whose encoder is frozen: its latents, and what was trained on them, stay valid.

    Raises:
        UsageError: there is no autoencoder in `folder`.
    """
    if not Path(folder, "config.json").is_file():
        raise UsageError(f"no autoencoder at {folder} (decoder_of): train it first")
    vae = AutoencoderKLWan.from_pretrained(folder)
    for module in (vae.encoder, vae.quant_conv):
        module.requires_grad_(False)
    return _fast_layout(vae)


def load_clips(seed: int, indices: list[int], split: Split, num_frames: int | None = None) -> Tensor:
    """Toyworld clips (B, 3, F, 64, 64) in [-1, 1], of toyworld's length or of `num_frames` frames.

    Of clips shorter than toyworld's the index also decides where they begin.
    """
    clips = []
    for index in indices:
        clip = render(scene_at(seed, index, split), max(NUM_FRAMES, num_frames or 0))
        if num_frames is not None:
            start = int(np.random.default_rng([seed, index]).integers(len(clip) - num_frames + 1))
            clip = clip[start : start + num_frames]
        clips.append(clip)
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def object_weights(video: Tensor, object_weight: float) -> Tensor:
    """Weights (B, 1, F, height, width) of the pixels' errors: 1 on the background, more on objects and close to them.

    Close, within `MARGIN`, because a circle that becomes a square errs there. Where this is `TYPICAL_SHARE` of a clip's
    pixels the weight is 1 + `object_weight`. Where it is less they weigh more, and the other way round, so that a small
    object's shape counts as much as a large one's. The background's colour is the median of the first frame.
    """
    background = video[:, :, 0].flatten(2).median(dim=-1).values[:, :, None, None, None]
    is_object = (video - background).abs().amax(dim=1, keepdim=True) > OBJECT_THRESHOLD
    is_near = F.max_pool3d(
        is_object.float(), (1, 2 * MARGIN + 1, 2 * MARGIN + 1), stride=1, padding=(0, MARGIN, MARGIN)
    )
    share = is_near.mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=TYPICAL_SHARE / 5)
    return 1 + object_weight * TYPICAL_SHARE / share * is_near


def reconstruction_loss(reconstruction: Tensor, video: Tensor, object_weight: float) -> Tensor:
    """Weighted mean squared error of two (B, 3, F, height, width)."""
    weights = object_weights(video, object_weight)
    return (weights * (reconstruction - video).square()).sum() / (3 * weights.sum())


def posterior_means(vae: AutoencoderKLWan, video: Tensor, in_windows: bool) -> Tensor:
    """Posterior means (B, D, T, H, W) of (B, 3, F, height, width).

    `in_windows`: each stretch of toyworld's length is encoded as a clip of its own, and gives the frames after its
    first; the latents that a flow trained on such clips makes when it goes on for longer are like these.
    """
    if not in_windows:
        return wan_moments(vae, video).chunk(2, dim=1)[0]
    pieces = []
    for start in range(0, max(video.shape[2] - 1, 1), NUM_FRAMES - 1):
        means = wan_moments(vae, video[:, :, start : start + NUM_FRAMES]).chunk(2, dim=1)[0]
        pieces.append(means if start == 0 else means[:, :, 1:])
    return torch.cat(pieces, dim=2)


class VAEStep:
    """One training step: clips → posterior → noisy latents → clips, and the gradient of the loss.

    Clips longer than toyworld's are encoded whole in one micro step and in windows in the next.
    """

    def __init__(self, vae: AutoencoderKLWan, config: VAETrainConfig) -> None:
        self.vae, self.config = vae, config

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        loop, loss_config = self.config.loop, self.config.loss
        stage = stage_at(self.config.stages, step)
        number = step * loop.accumulation + micro_step
        first = number * max(each.batch_size for each in self.config.stages)
        video = load_clips(loop.seed, list(range(first, first + stage.batch_size)), "train", stage.num_frames)
        video = video.to(loop.device)
        with autocast(loop):
            mean = posterior_means(self.vae, video, in_windows=number % 2 == 1).float()
            # The decoder will be given a flow's samples, not means: it learns to bear noise, on each clip more or less.
            generator = micro_generator(loop, step, micro_step)
            level = loss_config.latent_noise * torch.rand(
                len(mean), 1, 1, 1, 1, generator=generator, device=loop.device
            )
            unit_noise = torch.randn(mean.shape, generator=generator, device=loop.device)
            noise = level * mean.detach().std() * unit_noise
            reconstruction = wan_decode(self.vae, mean + noise).float()
        kl = 0.5 * mean.square().mean()  # to N(0, I), of a posterior of fixed variance, but for a constant
        loss = reconstruction_loss(reconstruction, video, loss_config.object_weight) + loss_config.kl_weight * kl
        (scale * loss).backward()
        psnr = clip_psnr(reconstruction.detach(), video).mean()
        return {"loss": loss.item(), "kl": kl.item(), "psnr": psnr.item(), "clips": float(len(video))}


def stage_at(stages: list[Stage], step: int) -> Stage:
    """The stage that a step belongs to; the last one goes on after its end."""
    for stage in stages:
        if step < stage.num_steps:
            return stage
        step -= stage.num_steps
    return stages[-1]


def clip_psnr(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each clip in dB, (B,), from its mean squared error; the peak-to-peak range is 2."""
    error = (reconstruction.clamp(-1, 1) - video).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


@torch.no_grad()
def reconstruct(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Encode and decode (B, 3, F, height, width), through the posterior's mean."""
    return wan_decode(vae, wan_moments(vae, video).chunk(2, dim=1)[0]).clamp(-1, 1)


def held_out_psnr(vae: AutoencoderKLWan, num_clips: int, bf16: bool) -> float:
    """Mean over held-out clips of their PSNR in dB."""
    psnr = []
    for first in range(0, num_clips, EVALUATION_BATCH):
        indices = list(range(first, min(first + EVALUATION_BATCH, num_clips)))
        video = load_clips(TEST_SEED, indices, "test").to(vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=bf16):
            psnr.append(clip_psnr(reconstruct(vae, video).float(), video))
    return torch.cat(psnr).mean().item()


@torch.no_grad()
def training_latents(vae: AutoencoderKLWan, seed: int, num_clips: int) -> Tensor:
    """Posterior means (B, D, T, H, W) of the first training clips, float64."""
    means = []
    for first in range(0, num_clips, EVALUATION_BATCH):
        indices = list(range(first, min(first + EVALUATION_BATCH, num_clips)))
        means.append(wan_moments(vae, load_clips(seed, indices, "train").to(vae.device)).chunk(2, dim=1)[0])
    return torch.cat(means).double()


def normalise_latents(vae: AutoencoderKLWan, latents: Tensor) -> None:
    """Turn the latents to their principal axes and store in the config what brings first frames to mean 0, variance 1.

    One scale for all channels; `latents` (B, D, T, H, W) are posterior means of training clips.
    """
    turned = turn_to_principal_axes(vae, latents.movedim(1, -1).flatten(0, 3))
    mean = turned.mean(dim=0)
    first_frames = turned.view(latents.shape[0], latents.shape[2], -1, len(mean))[:, 0]
    std = (first_frames - mean).square().mean().sqrt().item()
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=[std] * len(mean))


def sample_grid(vae: AutoencoderKLWan) -> Tensor:
    """Originals over reconstructions of held-out clips: (3, height, width) in [0, 1], one clip per pair of rows."""
    video = load_clips(TEST_SEED, list(range(NUM_SAMPLES)), "test").to(vae.device)
    pair = torch.stack([video, reconstruct(vae, video)], dim=1)[:, :, :, ::4]  # (B, 2, 3, f, 64, 64)
    return pair.permute(2, 0, 1, 4, 3, 5).flatten(4).flatten(1, 3) / 2 + 0.5


def save_vae(vae: AutoencoderKLWan, config: VAETrainConfig, folder: Path) -> None:
    """Write a `save_pretrained` folder, with the latents brought to principal axes and their scale in its config."""
    if config.decoder_of is None:
        normalise_latents(vae, training_latents(vae, config.loop.seed, NUM_STATISTICS_CLIPS))
    vae.register_to_config(_name_or_path="")  # names no folder of this machine
    with atomic_write(folder) as temporary:
        vae.save_pretrained(temporary)


def train_vae(config: VAETrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says; returns the folder of the final autoencoder, `output`/final.

    With `decoder_of` the architecture is that of the autoencoder there, not `model`.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as `starflow.train.loop` does.
    """
    output = Path(config.output)
    seed_everything(config.loop.seed)
    vae = build_vae(config.model) if config.decoder_of is None else load_for_decoder_training(config.decoder_of)
    vae.to(config.loop.device)
    groups = parameter_groups("vae", vae, config.optimizer, not_muon=("conv_in", "conv_out"))
    state = create_state({"vae": vae}, groups, config.loop)
    resume_or_start(state, output, resume)
    with atomic_write(output / "config.yaml") as temporary:
        save_config(config, temporary)

    def preview(state: TrainState, writer: SummaryWriter) -> None:
        psnr = held_out_psnr(vae, config.num_test_clips, config.loop.bf16)
        writer.add_scalar("held_out_psnr", psnr, state.step)
        writer.add_image("reconstructions", sample_grid(vae), state.step)
        with (output / "held_out_psnr.jsonl").open("a") as file:
            file.write(json.dumps({"step": state.step, "psnr": round(psnr, 3), "time": round(time.time())}) + "\n")

    train(state, VAEStep(vae, config), config.loop, output, preview)
    with state.averaged_weights():
        save_vae(vae, config, output / "final")
    return output / "final"
