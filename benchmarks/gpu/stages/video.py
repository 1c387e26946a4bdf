"""The released video model's configuration with random weights, 848×480: passes, sweeps, denoiser, VAE."""

from functools import partial

import torch
from diffusers import AutoencoderKLWan

from flow_clock import time_works
from measure import Results, median_ms, release
from models import pipeline_of
from starflow.encoders.video import WanDecoderStream
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.denoiser_stream import stream_predictions
from works import CLIP_FRAMES, video_works

SWEPT_FRAMES = 24  # room for the longest cache and the widest window behind it


def measure(results: Results, tiny: bool) -> None:
    """All of it, what matters most first."""
    pipeline = pipeline_of("video", tiny, results.device)
    config, codec = pipeline.config, pipeline.codec
    frame = (config.height // codec.spatial_factor, config.width // codec.spatial_factor)
    grid = (5 if tiny else SWEPT_FRAMES, *frame)
    time_works(results, pipeline.flow, video_works(tiny), grid, config.max_text_tokens)
    num_frames = 3 if tiny else CLIP_FRAMES
    with results.attempt("denoiser"):
        assert pipeline.denoiser is not None
        _time_denoiser(results, pipeline.denoiser, num_frames, frame, config.max_text_tokens)
    with results.attempt("decoding"):
        _time_decoding(results, pipeline.vae, frame)


@torch.no_grad()
def _time_denoiser(
    results: Results, denoiser: CausalDenoiser, num_frames: int, frame: tuple[int, int], num_text_tokens: int
) -> None:
    """A clip frame by frame, as it is denoised."""
    x = torch.randn(1, num_frames, denoiser.config["latent_channels"], *frame, device=results.device)
    text = torch.randn(1, num_text_tokens, denoiser.config["text_width"], device=results.device)
    ms = median_ms(lambda: list(stream_predictions(denoiser, x.split(1, dim=1), text)), results.device, 3)
    results.add("stages", stage="denoising", latent_frames=num_frames, ms=ms)


@torch.no_grad()
def _time_decoding(results: Results, vae: AutoencoderKLWan, frame: tuple[int, int]) -> None:
    """One latent frame behind others, whole and in tiles."""
    z = torch.randn(1, vae.config.z_dim, 1, *frame, device=results.device, dtype=vae.dtype)
    for tiled in (False, True):
        vae.use_tiling = tiled
        stream = WanDecoderStream(vae)
        for _ in range(2):  # the first frame is another computation, and the third the same as all later ones
            stream(z)
        ms = median_ms(partial(stream, z), results.device, 5)
        results.add("stages", stage="decoding, tiled" if tiled else "decoding", latent_frames=1, ms=ms)
        del stream
        release()
    vae.use_tiling = False
