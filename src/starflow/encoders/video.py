"""Video and image autoencoders of diffusers behind one interface: pixels ⇄ normalised latents.

Legend: B batch, F video frames, T latent frames, H W latent rows and columns, D latent channels.
Videos are (B, F, 3, height, width) in [-1, 1]; latents are (B, T, D, H, W), with about zero mean and unit variance.
Only this file and training use the video layout of diffusers, (B, channels, frames, height, width).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from starflow.encoders.device import onload
from starflow.encoders.tiling import Features, TiledWanDecoder
from starflow.errors import StarflowError, UsageError
from starflow.weights.components import spatial_factor


def wan_moments(vae: AutoencoderKLWan, video: Tensor, frames_at_once: int | None = None) -> Tensor:
    """Posterior moments of whole clips.

    The result equals that of `vae.encode`, which encodes four frames at a time after the first. All at once is faster
    for small frames, as in training.

    Args:
        vae: the autoencoder.
        video: (B, 3, F, height, width), F = 1 + 4k.
        frames_at_once: frames to encode at a time after the first, a multiple of the temporal factor; None for all.

    Returns:
        Mean and log-variance, (B, 2D, T, H, W).
    """
    if vae.config.patch_size is not None:
        video = patchify(video, patch_size=vae.config.patch_size)
    features: list[Tensor | None] = [None] * vae._cached_conv_counts["encoder"]
    pieces = [
        vae.encoder(piece, feat_cache=features, feat_idx=[0])
        for stretch in _first_and_rest(video)
        for piece in stretch.split(frames_at_once or stretch.shape[2], dim=2)
    ]
    return vae.quant_conv(torch.cat(pieces, dim=2))


class WanDecoderStream:
    """Decodes a video piece by piece. The feature cache of the causal decoder is kept from piece to piece.

    The first piece must be one latent frame, which becomes one video frame. Later pieces may have any number of latent
    frames; each becomes four video frames. A stream is for one video; several streams may run at once. After
    `vae.enable_tiling()`, large frames are decoded in tiles, with less memory and the same result.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae
        self.tiled = TiledWanDecoder(vae) if vae.use_tiling else None
        self.features: Features = [None] * vae._cached_conv_counts["decoder"]
        self.started = False

    def copy(self) -> "WanDecoderStream":
        """A stream of the same video, which can go on in another way. The tensors are shared: none is changed."""
        other = copy(self)
        other.features = list(self.features)
        other.tiled = None if self.tiled is None else self.tiled.copy()
        return other

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode (B, D, t, H, W), not normalised, to (B, 3, f, height, width), not clamped."""
        if not self.started and latents.shape[2] != 1:
            raise ValueError(f"the first piece must be one latent frame, not {latents.shape[2]}")
        hidden = self.vae.post_quant_conv(latents)
        if self.tiled is not None:
            video = self.tiled(hidden, first_chunk=not self.started)
        else:
            video = self.vae.decoder(hidden, feat_cache=self.features, feat_idx=[0], first_chunk=not self.started)
        self.started = True
        patch_size = self.vae.config.patch_size
        return video if patch_size is None else unpatchify(video, patch_size=patch_size)


def wan_decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode whole clips in two passes: (B, D, T, H, W), not normalised, to (B, 3, F, height, width), not clamped."""
    stream = WanDecoderStream(vae)
    return torch.cat([stream(piece) for piece in _first_and_rest(latents)], dim=2)


def _first_and_rest(frames: Tensor) -> list[Tensor]:
    """Split (B, C, frames, …) into its first frame and, if there are more, the others."""
    return [piece for piece in (frames[:, :, :1], frames[:, :, 1:]) if piece.shape[2] > 0]


@contextmanager
def _without_float16(vae: AutoencoderKLWan | AutoencoderKL) -> Iterator[None]:
    """Hold an autoencoder that is in float16 in float32; the hooks of offloading by layer need the stored weights."""
    is_cast = vae.dtype == torch.float16 and not any(
        hasattr(module, "_diffusers_hook") or hasattr(module, "_hf_hook")
        for module in vae.modules()
        if module is not vae
    )
    if not is_cast:
        yield
        return
    try:
        with torch.inference_mode(False):  # the weights are of use outside of it, too
            vae.float()
        yield
    finally:
        with torch.inference_mode(False):
            vae.half()


class VideoCodec:
    """Pixels ⇄ normalised latents, with `AutoencoderKLWan` (video) or `AutoencoderKL` (images: F = T = 1).

    The latents are the posterior's means, normalised by the config of the autoencoder: per channel for Wan's
    (``latents_mean``, ``latents_std``), and by ``(z - shift_factor) · scaling_factor`` for an image autoencoder.

    Args:
        vae: the autoencoder; its device and dtype are used.
        later_frame_scale: factor of the normalised latents of all frames but the first, which vary more than the first
            (0.6 in STARFlow-V).
    """

    def __init__(self, vae: AutoencoderKLWan | AutoencoderKL, later_frame_scale: float = 1.0) -> None:
        self.vae = vae
        self.later_frame_scale = later_frame_scale
        self.spatial_factor = spatial_factor(vae.config)
        config = vae.config
        if isinstance(vae, AutoencoderKLWan):
            self.latent_channels: int = config.z_dim
            self.temporal_factor = 2 ** sum(config.temperal_downsample)
            mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
        else:
            self.latent_channels = config.latent_channels
            self.temporal_factor = 1
            mean = torch.tensor([config.shift_factor or 0.0])
            std = torch.tensor([1 / config.scaling_factor])
        self._mean, self._std = mean.view(1, 1, -1, 1, 1), std.view(1, 1, -1, 1, 1)

    def latent_shape(self, batch_size: int, num_frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """The shape (B, T, D, H, W) of the latents of a batch of videos.

        Args:
            batch_size: B.
            num_frames: F.
            height: in pixels.
            width: in pixels.

        Raises:
            UsageError: the autoencoder cannot make this number of frames, or frames of this size.
        """
        factor = self.spatial_factor
        if height % factor or width % factor or height < factor or width < factor:
            raise UsageError(f"width and height must be multiples of {factor} pixels, not {width}×{height}")
        return batch_size, self.num_latent_frames(num_frames), self.latent_channels, height // factor, width // factor

    def video_size(self, latents: Tensor) -> tuple[int, int]:
        """Height and width in pixels of the video of latents (…, H, W)."""
        return latents.shape[-2] * self.spatial_factor, latents.shape[-1] * self.spatial_factor

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames T of a clip of `num_frames` frames.

        Raises:
            UsageError: the autoencoder cannot make this number of frames (see `nearest_num_frames`).
        """
        if num_frames != self.nearest_num_frames(num_frames):
            raise UsageError(
                f"this autoencoder cannot make {num_frames} frames: the nearest possible number is "
                f"{self.nearest_num_frames(num_frames)}"
            )
        return 1 if self.is_image else 1 + (num_frames - 1) // self.temporal_factor

    def largest_num_frames(self, num_frames: int) -> int:
        """The largest number of frames, at most `num_frames`, that the autoencoder can make."""
        return 1 if self.is_image else num_frames - (num_frames - 1) % self.temporal_factor

    def nearest_num_frames(self, num_frames: int) -> int:
        """The nearest number of frames that the autoencoder can make, 1 + 4k; of two equally near, the larger one."""
        if self.is_image:
            return 1
        steps = (2 * max(0, num_frames - 1) + self.temporal_factor) // (2 * self.temporal_factor)
        return 1 + self.temporal_factor * steps

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encode (B, F, 3, height, width) in [-1, 1] to normalised latents (B, T, D, H, W), float32.

        An autoencoder in float16 encodes in float32, because activations of encoders overflow in float16. Only with
        its weights offloaded by layer it encodes in float16.

        Raises:
            UsageError: the number of frames or the size of the frames does not fit the autoencoder.
            StarflowError: the latents are not finite.
        """
        self.latent_shape(*video.shape[:2], *video.shape[-2:])
        onload(self.vae)
        with _without_float16(self.vae):
            video = video.to(get_module_execution_device(self.vae), self.vae.dtype)
            if self.is_image:
                latents = self.vae.encode(video[:, 0]).latent_dist.mode().unsqueeze(1)
            else:
                moments = wan_moments(self.vae, video.transpose(1, 2), self.temporal_factor)
                latents = moments.chunk(2, dim=1)[0].transpose(1, 2)
        latents = self._normalise(latents.to(self._float(latents)))
        if not latents.isfinite().all():
            raise StarflowError(f"the VAE cannot encode this in {self.vae.dtype}: use bfloat16 or float32")
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, T, D, H, W) to a video (B, F, 3, height, width) in [-1, 1], float32."""
        return torch.cat(list(self.stream_decode([latents])), dim=1)

    @torch.no_grad()
    def stream_decode(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode latents piece by piece, with the memory for one latent frame. The result equals that of `decode`.

        Args:
            pieces: (B, t, D, H, W), successive latent frames of the same clips, one or more at a time.

        Yields:
            For each latent frame its video frames (B, f, 3, height, width) in [-1, 1], float32: f = 1, then 4 each.
        """
        stream = DecoderStream(self)
        for piece in pieces:
            for frame in piece.split(1, dim=1):
                yield stream(frame)

    @property
    def is_image(self) -> bool:
        return isinstance(self.vae, AutoencoderKL)

    @staticmethod
    def _float(tensor: Tensor) -> torch.dtype:
        return torch.promote_types(tensor.dtype, torch.float32)

    def _normalise(self, latents: Tensor) -> Tensor:
        latents = (latents - self._mean.to(latents)) / self._std.to(latents)
        return torch.cat([latents[:, :1], latents[:, 1:] * self.later_frame_scale], dim=1)

    def denormalise(self, latents: Tensor, *, is_first: bool) -> Tensor:
        if not is_first:
            latents = latents / self.later_frame_scale
        return latents * self._std.to(latents) + self._mean.to(latents)


class DecoderStream:
    """Decodes the latents of clips frame by frame."""

    def __init__(self, codec: VideoCodec) -> None:
        self.codec = codec
        self.stream = None if codec.is_image else WanDecoderStream(codec.vae)
        self.is_first = True

    def copy(self) -> "DecoderStream":
        """A stream of the same clips, which can go on in another way."""
        other = copy(self)
        other.stream = None if self.stream is None else self.stream.copy()
        return other

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Decode the next frame (B, 1, D, H, W) to its video frames (B, f, 3, height, width) in [-1, 1], float32."""
        vae = self.codec.vae
        onload(vae)  # for every frame: the earlier stages may have offloaded it
        raw = self.codec.denormalise(latents, is_first=self.is_first)
        raw = raw.to(get_module_execution_device(vae), vae.dtype)
        self.is_first = False
        if self.stream is None:
            video = vae.decode(raw[:, 0]).sample.unsqueeze(1)
        else:
            video = self.stream(raw.transpose(1, 2)).transpose(1, 2)
        return video.to(torch.promote_types(video.dtype, torch.float32)).clamp(-1, 1)
