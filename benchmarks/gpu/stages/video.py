"""The released video model's configuration with random weights, 848×480: passes, sweeps, denoiser, VAE, two frames."""

from functools import partial

import torch
from diffusers import AutoencoderKLWan

from flow_clock import time_works
from measure import Results, median_ms, peak_bytes, release, seconds
from models import PROMPT, pipeline_of
from starflow.encoders.video import WanDecoderStream
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.denoiser_stream import stream_predictions
from starflow.flow.guidance import weight_of
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import Plan, sample
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import Solvers, sequential
from works import CLIP_FRAMES, video_works

SWEPT_FRAMES = 24  # room for the longest cache and the widest window behind it
SAMPLED_FRAMES = 2
MAX_SWEEPS = 30  # of a token, so that random weights which do not converge end too


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
    with results.attempt("sampling two latent frames"):
        _sample(results, pipeline, frame, tiny)


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


@torch.no_grad()
def _sample(results: Results, pipeline: StarFlowPipeline, frame: tuple[int, int], tiny: bool) -> None:
    """Two latent frames with guidance: by the sliding window, certified, and some tokens one by one."""
    device, flow, config = results.device, pipeline.flow, pipeline.config
    text, null_text = (pipeline.encode_prompt([each], config.fps) for each in (PROMPT, ""))
    noise = torch.randn(1, SAMPLED_FRAMES, flow.config["latent_channels"], *frame, device=device)
    window = 8 if tiny else 512
    solvers = Solvers(SlidingWindow(window, 1e-2, MAX_SWEEPS), SlidingWindow(window, 1e-4, MAX_SWEEPS))
    plan = Plan(noise, text, null_text, weight_of(config.guidance_scale), solvers=solvers)
    made: list[torch.Tensor] = []
    taken: list[float] = []
    peak = peak_bytes(lambda: taken.append(seconds(lambda: made.extend(sample(flow, plan)), device)), device)
    results.add(
        "sampled",
        latent_frames=SAMPLED_FRAMES,
        window=window,
        seconds=taken[0],
        deep_sweeps=plan.report.deep.sweeps,
        evaluations_per_token=plan.report.deep.evaluations / plan.report.deep.tokens,
        max_residual=plan.report.deep.max_residual,
        converged=plan.report.deep.converged,
        latent_std=torch.cat(made, dim=1).std().item(),
        peak_bytes=peak,
    )
    num_tokens = 4 if tiny else 256
    gaussians = flow.conditional(
        flow.num_blocks - 1, 1, (SAMPLED_FRAMES, *frame), text, null_text, weight_of(config.guidance_scale)
    )
    z = flow.to_tokens(noise.permute(0, 1, 3, 4, 2), flow.num_blocks - 1)

    def one_by_one() -> None:
        gaussians.forget()
        for _ in sequential(gaussians, z, z.clone(), 0, num_tokens, z.shape[1]):
            pass

    results.add("one by one", tokens=num_tokens, ms_per_token=median_ms(one_by_one, device, 3) / num_tokens)
