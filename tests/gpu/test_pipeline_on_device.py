"""Whole clips on the device: as on the CPU, streamed, offloaded, quantized, by the command; NaN is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardware_helpers import inverted, wide_pipeline
from starflow.cli.main import run
from starflow.errors import StarflowError
from starflow.hardware.free import available_memory
from starflow.hardware.placement import OFFLOADS, place
from starflow.hardware.quantization import QUANTIZATIONS, quantization_config
from starflow.media.video import read_video
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import tiny_pipeline

pytestmark = pytest.mark.gpu
PROMPT = "a red circle moves right"


def made(pipeline: StarFlowPipeline, output_type: str = "pt", **options: object) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipeline(PROMPT, generator=generator, output_type=output_type, **options).frames.cpu()


def test_the_bundled_model_makes_the_clip_that_it_makes_on_the_cpu(device: torch.device):
    pipeline = StarFlowPipeline.from_pretrained("toyworld")
    pipeline.set_progress_bar_config(disable=True)
    want = made(pipeline, num_frames=5, sampler="sequential")
    got = made(pipeline.to(device), num_frames=5, sampler="sequential")
    assert want.std() > 0.01
    torch.testing.assert_close(got, want, atol=2e-3, rtol=0)


def test_a_stream_has_the_frames_of_the_whole(device: torch.device):
    pipeline = tiny_pipeline().to(device)
    want = made(pipeline)[0]
    with pipeline.stream(PROMPT, generator=torch.Generator().manual_seed(0), output_type="pt") as stream:
        got = torch.stack([frame.image.cpu() for frame in stream])
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloading_changes_nothing(offload: str, device: torch.device):
    pipeline = tiny_pipeline()
    want = made(pipeline)
    place(pipeline, device, offload)
    for _ in range(2):  # a second video finds everything in place again
        torch.testing.assert_close(made(pipeline), want, atol=1e-3, rtol=0)
    if offload != "none" and device.type == "cuda":
        assert all(parameter.device.type == "cpu" for parameter in pipeline.flow.deep.transformer.layers.parameters())


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_narrow_weights_stay_invertible(quantize: str, device: torch.device, tmp_path: Path):
    pytest.importorskip("torchao")
    wide_pipeline().save_pretrained(tmp_path)
    flow = StarFlowPipeline.from_pretrained(
        tmp_path,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,  # int4's kernels take nothing else
        quantization_config=quantization_config(quantize, device),
        device_map=device.type if device.type == "cuda" else None,
    ).flow
    assert type(flow.deep.transformer.layers[0].mlp.up.weight.data) is not Tensor
    assert flow.deep.proj_in.weight.device.type == device.type
    _, error = inverted(flow, 1e-1)
    assert 0 < error < 0.5  # activations are bfloat16, whose rounding the shallow blocks multiply; noise is up to 3


def test_an_8_bit_cache_makes_nearly_the_same_latents(device: torch.device):
    pipeline = tiny_pipeline().to(device)
    want = made(pipeline, "latent")
    pipeline.flow.cache_dtype = torch.float8_e4m3fn
    got = made(pipeline, "latent")
    assert 0 < (got - want).std() / want.std() < 0.3


@pytest.mark.parametrize("sampler", ["sliding", "block-jacobi", "sequential"])
def test_nan_in_the_flow_is_an_error(sampler: str, device: torch.device):
    pipeline = tiny_pipeline().to(device)
    pipeline.flow.deep.proj_out.bias[0] = torch.nan
    with pytest.raises(StarflowError, match="NaN"):
        made(pipeline, sampler=sampler)


@pytest.mark.parametrize("part", ["denoiser", "vae"])
def test_nan_after_the_flow_is_an_error(part: str, device: torch.device):
    pipeline = tiny_pipeline().to(device)
    with torch.no_grad():
        next(reversed(list(getattr(pipeline, part).parameters()))).fill_(torch.nan)
        if part == "vae":
            pipeline.vae.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(StarflowError, match="NaN"):
        made(pipeline)


def test_the_command(device: torch.device, tmp_path: Path):
    arguments = ["--device", device.type, "--num-frames", "5", "-o", str(tmp_path / "clip.webp")]
    assert run(["generate", PROMPT, *arguments]) == 0
    frames, _ = read_video(tmp_path / "clip.webp")
    assert frames.shape == (5, 64, 64, 3)
    assert frames.std() > 1


def test_free_memory_is_known(device: torch.device):
    free = available_memory(device)
    assert free is not None
    assert free > 2**28
