"""The released image model's configuration with random weights: passes, sweeps, one 256×256 image and eight."""

import torch

from flow_clock import time_works
from measure import Results, StageMeter
from models import PROMPT, pipeline_of
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import denoised, sampled
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import Solvers
from works import image_works

MAX_SWEEPS = 30  # of a token, so that random weights which do not converge end too


def measure(results: Results, tiny: bool) -> None:
    """Whole images first, as they show most."""
    pipeline = pipeline_of("image", tiny, results.device)
    config, codec = pipeline.config, pipeline.codec
    for batch in (1, 8):
        with results.attempt(f"a batch of {batch} images"):
            _make(results, pipeline, batch, 8 if tiny else 256)
    grid = (1, config.height // codec.spatial_factor, config.width // codec.spatial_factor)
    time_works(results, pipeline.flow, image_works(tiny), grid, config.max_text_tokens)


@torch.no_grad()
def _make(results: Results, pipeline: StarFlowPipeline, batch: int, window: int) -> None:
    """Images from captions, certified, and the seconds and memory of each stage; the first time does not count."""
    for _ in range(2):
        meter = StageMeter(results.device)
        meter.switch("text")
        plan = pipeline.plan([PROMPT] * batch).sampling
        plan.solvers = Solvers(SlidingWindow(window, 1e-2, MAX_SWEEPS), SlidingWindow(window, 1e-4, MAX_SWEEPS))
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
