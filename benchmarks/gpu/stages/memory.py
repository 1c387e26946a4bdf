"""Peak memory of each stage of the released clip, under every way to make it fit, as `starflow info` computes it.

The stages run for real, but the solvers make only the sweeps that take most memory, and few frames are decoded: just
what the computation assumes (`starflow.hardware.memory`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from measure import Results, StageMeter, release
from models import PROMPT, pipeline_of
from starflow.hardware.memory import STEADY_FRAMES, Request, _LastSweep
from starflow.hardware.placement import place
from starflow.hardware.quantization import quantization_config
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import denoised, sampled
from starflow.sampling.solvers import Solvers

# What is asked for in each, in the words of `Request`.
WAYS: dict[str, dict[str, Any]] = {
    "all on the device": {},
    "8-bit cache": {"cache_dtype": torch.float8_e4m3fn},
    "tiling": {"tiling": True},
    "int8": {"quantize": "int8"},
    "offload model": {"offload": "model"},
    "offload group": {"offload": "group"},
}


def request_of(way: str, settings: Mapping[str, Any]) -> Request:
    """A clip of the model's own length, made in one of the ways."""
    clip = Request(settings["height"], settings["width"], settings["num_frames"])
    return replace(clip, **WAYS[way])


def measure(results: Results, tiny: bool) -> None:
    """Every way; those that change where the weights are come later, with weights drawn anew."""
    device = results.device

    def drawn() -> StarFlowPipeline:
        release()
        return pipeline_of("video", tiny, device)

    pipeline = drawn()
    for way in ("all on the device", "8-bit cache", "tiling"):
        _measure(results, way, pipeline)
    with results.attempt("int8"):
        _quantize(pipeline)
        _measure(results, "int8", pipeline)
    del pipeline
    pipeline = drawn().to("cpu")
    release()
    with results.attempt("offload model"):
        place(pipeline, device, "model")
        _measure(results, "offload model", pipeline)
        pipeline.remove_all_hooks()
        pipeline.to("cpu")
    with results.attempt("offload group"):
        place(pipeline, device, "group")
        _measure(results, "offload group", pipeline)


def _measure(results: Results, way: str, pipeline: StarFlowPipeline) -> None:
    with results.attempt(way):
        release()
        request = Request(1, 1, 1, **WAYS[way])
        pipeline.flow.cache_dtype, pipeline.vae.use_tiling = request.cache_dtype, request.tiling
        meter = StageMeter(results.device)
        _make(pipeline, meter)
        for stage, peak in meter.peaks.items():
            results.add("memory", way=way, stage=stage, peak_bytes=peak)
        if results.device.type == "cuda":
            free, total = torch.cuda.mem_get_info()
            reserved = torch.cuda.memory_reserved()
            beyond = reserved - max(meter.peaks.values())
            results.add("overhead", way=way, context_bytes=total - free - reserved, allocator_bytes=beyond)


@torch.no_grad()
def _make(pipeline: StarFlowPipeline, meter: StageMeter) -> None:
    """The pipeline's stages, as `starflow.hardware.memory._make` runs them on the meta device."""
    meter.switch("text")
    plan = pipeline.plan(PROMPT).sampling
    solver = _LastSweep(pipeline.config.block_size)
    plan.solvers = Solvers(solver, solver)
    meter.switch("sampling")
    noisy = meter.during("sampling", sampled(pipeline.flow, plan, plan.num_frames))
    clean = denoised(pipeline.flow, pipeline.denoiser, pipeline.config.noise_std, noisy, plan.text)
    num_decoded = 0

    def first_frames() -> Iterator[Tensor]:
        nonlocal num_decoded
        for piece in meter.during("denoising", clean):
            if num_decoded < STEADY_FRAMES:
                num_decoded += piece.shape[1]
                yield piece[:, :STEADY_FRAMES]

    for _ in meter.during("decoding", pipeline.codec.stream_decode(first_frames())):
        pass
    meter.switch("")
    pipeline.maybe_free_model_hooks()


def _quantize(pipeline: StarFlowPipeline) -> None:
    """Narrow the matrices of the layers in place, as loading with `quantization_config("int8")` does."""
    from torchao.quantization import quantize_

    config = quantization_config("int8").quant_mapping["flow"].quant_type
    for part in (pipeline.flow, pipeline.denoiser):
        quantize_(part, config, lambda module, name: isinstance(module, nn.Linear) and ".layers." in f".{name}")
