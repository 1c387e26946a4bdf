"""The bundled model: seconds of a clip, clips a second in batches, and the time to the first frame."""

from statistics import median

import torch

from measure import Results, seconds
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import denoised, restored, sampled
from starflow.sampling.sampler import SamplingReport, solvers_named
from starflow.sampling.solvers import Solvers

PROMPTS = ("a red circle moves right", "a large blue square bounces", "a small green triangle orbits")
# `published` is the released code's solver. The last two are sliding windows of so many tokens of the deep block and of
# the shallow blocks; the model's own are 16 and 1.
SAMPLERS = ("sliding", "published", "sequential", "sliding 32/16", "sliding 80/16")
REPEATS = 5


def measure(results: Results, tiny: bool) -> None:
    """Every sampler and batch size in float32; the fastest in bfloat16 too."""
    for dtype, samplers in ((torch.float32, SAMPLERS), (torch.bfloat16, SAMPLERS[:1])):
        pipeline = StarFlowPipeline.from_pretrained("toyworld", dtype=dtype).to(results.device)
        pipeline.set_progress_bar_config(disable=True)
        name = str(dtype).removeprefix("torch.")
        for batch in (2,) if tiny else (1, 8, 64):
            for sampler in samplers:
                with results.attempt(f"{sampler}, batch {batch}, {name}"):
                    _clips(results, pipeline, batch, sampler, name, 1 if tiny else REPEATS)
        with results.attempt(f"first frame, {name}"):
            _first_frame(results, pipeline, name, 1 if tiny else REPEATS)


def _clips(results: Results, pipeline: StarFlowPipeline, batch: int, sampler: str, dtype: str, repeats: int) -> None:
    reports: list[SamplingReport] = []

    def make() -> None:
        reports.append(_make(pipeline, [PROMPTS[index % len(PROMPTS)] for index in range(batch)], sampler))

    make()
    taken = median(seconds(make, results.device) for _ in range(repeats))
    deep = reports[-1].deep
    results.add(
        "clips",
        batch=batch,
        sampler=sampler,
        dtype=dtype,
        seconds=taken,
        clips_per_second=batch / taken,
        deep_sweeps=deep.sweeps,
        evaluations_per_token=deep.evaluations / deep.tokens,
        max_residual=None if sampler == "published" else deep.max_residual,  # which the released solver does not know
    )


@torch.no_grad()
def _make(pipeline: StarFlowPipeline, prompts: list[str], sampler: str) -> SamplingReport:
    """Clips from captions to pixels, with the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    plan = pipeline.plan(prompts, generator=generator)
    plan.sampling.solvers = _solvers(sampler, plan.sampling.solvers, pipeline.config.tolerance)
    noisy = sampled(pipeline.flow, plan.sampling, plan.sampling.num_frames)
    clean = denoised(pipeline.flow, pipeline.denoiser, pipeline.config.noise_std, noisy, plan.sampling.text)
    for _ in pipeline.codec.stream_decode(restored(clean, plan.given)):
        pass
    return plan.sampling.report


def _solvers(sampler: str, default: Solvers, tolerance: float) -> Solvers:
    name, _, sizes = sampler.partition(" ")
    if not sizes and name == "sliding":
        return default
    deep, shallow = map(int, sizes.split("/")) if sizes else (1, 1)
    return solvers_named(name, tolerance=tolerance, block_size=deep, shallow_block_size=shallow)


def _first_frame(results: Results, pipeline: StarFlowPipeline, dtype: str, repeats: int) -> None:
    def first() -> None:
        with pipeline.stream(PROMPTS[0], output_type="pt", generator=torch.Generator().manual_seed(0)) as frames:
            next(frames)

    first()
    results.add("first frame", dtype=dtype, seconds=median(seconds(first, results.device) for _ in range(repeats)))
