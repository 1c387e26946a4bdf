"""Samples of the released models' configurations with random weights: two latent frames of video, and whole images.

Random weights do not converge as trained ones do, so the number of sweeps is limited.
"""

import torch

from measure import Results, StageMeter, median_ms, peak_bytes, seconds
from models import PROMPT, pipeline_of
from starflow.flow.guidance import weight_of
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import denoised, sampled
from starflow.sampling.sampler import Plan, sample
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import Solvers, sequential

LATENT_FRAMES = 2
MAX_SWEEPS = 10  # of a token


def measure(results: Results, tiny: bool) -> None:
    """The image model first, which is the quicker one."""
    with results.attempt("images"):
        pipeline = pipeline_of("image", tiny, results.device)
        for batch in (1, 8):
            with results.attempt(f"a batch of {batch} images"):
                _make_images(results, pipeline, batch, 8 if tiny else 256)
        del pipeline
    with results.attempt("two latent frames"):
        _sample_video(results, pipeline_of("video", tiny, results.device), tiny)


def _solvers(window: int) -> Solvers:
    return Solvers(SlidingWindow(window, 1e-2, MAX_SWEEPS), SlidingWindow(window, 1e-4, MAX_SWEEPS))


@torch.no_grad()
def _make_images(results: Results, pipeline: StarFlowPipeline, batch: int, window: int) -> None:
    """Images from captions, and the seconds and memory of each stage; the first time does not count."""
    for _ in range(2):
        meter = StageMeter(results.device)
        meter.switch("text")
        plan = pipeline.plan([PROMPT] * batch).sampling
        plan.solvers = _solvers(window)
        meter.switch("sampling")
        noisy = list(sampled(pipeline.flow, plan, 1))
        meter.switch("denoising")
        clean = list(denoised(pipeline.flow, None, pipeline.config.noise_std, noisy, plan.text))
        meter.switch("decoding")
        for _ in pipeline.codec.stream_decode(clean):
            pass
        meter.switch("")
    deep = plan.report.deep
    results.add(
        "images",
        batch=batch,
        seconds=meter.seconds,
        evaluations_per_token=deep.evaluations / deep.tokens,
        max_residual=deep.max_residual,
        converged=deep.converged,
        peak_bytes=meter.peaks,
    )


@torch.no_grad()
def _sample_video(results: Results, pipeline: StarFlowPipeline, tiny: bool) -> None:
    """Two latent frames with guidance: by the sliding window, and some tokens one by one."""
    device, flow, config = results.device, pipeline.flow, pipeline.config
    spatial = pipeline.codec.spatial_factor
    frame = (config.height // spatial, config.width // spatial)
    text, null_text = (pipeline.encode_prompt([each], config.fps) for each in (PROMPT, ""))
    noise = torch.randn(1, LATENT_FRAMES, flow.config["latent_channels"], *frame, device=device)
    window = 8 if tiny else 512
    weight = weight_of(config.guidance_scale)
    plan = Plan(noise, text, null_text, weight, solvers=_solvers(window))
    made: list[torch.Tensor] = []
    taken: list[float] = []
    peak = peak_bytes(lambda: taken.append(seconds(lambda: made.extend(sample(flow, plan)), device)), device)
    results.add(
        "sampled",
        latent_frames=LATENT_FRAMES,
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
    gaussians = flow.conditional(flow.num_blocks - 1, 1, (LATENT_FRAMES, *frame), text, null_text, weight)
    z = flow.to_tokens(noise.permute(0, 1, 3, 4, 2), flow.num_blocks - 1)

    def one_by_one() -> None:
        gaussians.forget()
        for _ in sequential(gaussians, z, z.clone(), 0, num_tokens, z.shape[1]):
            pass

    results.add("one by one", tokens=num_tokens, ms_per_token=median_ms(one_by_one, device, 3) / num_tokens)
