"""Memory computed on the meta device: against closed formulas, and against what real tensors take."""

from dataclasses import replace

import pytest
import torch

from starflow.errors import UsageError
from starflow.hardware.architecture import Architecture, load_architecture
from starflow.hardware.live_bytes import LiveBytes, _Count
from starflow.hardware.memory import GIB, OVERHEAD, Request, available_memory, estimate_memory, remedies, require_memory
from starflow.pipeline.pipeline import StarFlowPipeline

CLIP = Request(480, 848, 81)
SHORT = Request(480, 848, 9)  # three latent frames, which take less time to go through
TOKENS = 30 * 53  # of a latent frame
REMEDIES = {
    "--dtype bfloat16": {"dtype": torch.bfloat16},
    "--tiling": {"tiling": True},
    "--offload model": {"offload": "model"},
    "--quantize int8": {"quantize": "int8"},
    "--cache-dtype float8": {"cache_dtype": torch.float8_e4m3fn},
    "--quantize int4": {"quantize": "int4"},
    "--offload group": {"offload": "group"},
}


@pytest.fixture(scope="module")
def video() -> Architecture:
    return load_architecture("starflow-v-7b")


@pytest.fixture(scope="module")
def image() -> Architecture:
    return load_architecture("starflow-3b")


def working(architecture: Architecture, request: Request) -> dict[str, int]:
    return {stage.name: stage.working for stage in estimate_memory(architecture, request).stages}


def on_device(architecture: Architecture, request: Request) -> dict[str, int]:
    return {stage.name: stage.weights for stage in estimate_memory(architecture, request).stages}


def test_the_released_clip(video: Architecture):
    estimate = estimate_memory(video, CLIP)
    assert estimate.weights["flow"] + estimate.weights["denoiser"] == 2 * 6_890_096_528
    # keys and values of 24 layers, 4096 wide, of both branches of guidance, in bfloat16
    assert estimate.cache == 24 * 2 * 4096 * 2 * 2 * (256 + 21 * TOKENS)
    assert estimate.peak == max(stage.total for stage in estimate.stages) + OVERHEAD
    taken = {stage.name: stage.working for stage in estimate.stages}
    assert taken["sampling"] > estimate.cache
    assert max(taken["denoising"], taken["decoding"]) < 0.3 * estimate.cache  # it is gone when sampling is over


def test_what_is_asked_for_changes_what_it_takes(video: Architecture):
    cache = estimate_memory(video, SHORT).cache
    assert estimate_memory(video, replace(SHORT, guidance=False)).cache == cache // 2
    assert estimate_memory(video, replace(SHORT, cache_dtype=torch.float8_e4m3fn)).cache == cache // 2
    assert estimate_memory(video, replace(SHORT, batch_size=2)).cache == 2 * cache
    wide = estimate_memory(video, replace(SHORT, dtype=torch.float32))
    assert wide.cache == 2 * cache
    assert sum(wide.weights.values()) == 2 * sum(estimate_memory(video, SHORT).weights.values())
    rolling = estimate_memory(video, replace(SHORT, window=2)).cache
    assert rolling == 24 * 2 * 4096 * 2 * 2 * (256 + 2 * TOKENS)


def test_tiles_take_less(video: Architecture):
    assert working(video, replace(SHORT, tiling=True))["decoding"] < 0.8 * working(video, SHORT)["decoding"]


def test_a_stream_holds_its_cache_to_the_end(video: Architecture):
    cache = estimate_memory(video, SHORT).cache
    assert working(video, SHORT)["denoising"] < cache < working(video, replace(SHORT, frames_at_once=1))["denoising"]


def test_offloading(video: Architecture):
    weights = estimate_memory(video, SHORT).weights
    assert set(on_device(video, SHORT).values()) == {sum(weights.values())}
    assert on_device(video, replace(SHORT, offload="model")) == {
        "text": weights["text_encoder"],
        "sampling": weights["flow"],
        "denoising": weights["denoiser"],
        "decoding": weights["vae"],
    }
    groups = on_device(video, replace(SHORT, offload="group"))
    layer = 2 * sum(parameter.numel() for parameter in video.flow.deep.transformer.layers[0].parameters())
    assert 2 * layer < groups["sampling"] < 2.1 * layer
    assert working(video, replace(SHORT, offload="group")) == working(video, SHORT)


@pytest.mark.parametrize(("quantize", "share"), [("int8", 0.51), ("fp8", 0.51), ("int4", 0.26)])
def test_quantization(quantize: str, share: float, video: Architecture):
    plain, narrow = (estimate_memory(video, replace(SHORT, quantize=each)).weights for each in (None, quantize))
    assert narrow["flow"] == pytest.approx(share * plain["flow"], rel=0.02)
    assert narrow["vae"] == plain["vae"]
    assert narrow["text_encoder"] == plain["text_encoder"]


def test_the_image_model_denoises_with_the_flow(image: Architecture):
    request = Request(256, 256, 1, offload="model")
    weights = estimate_memory(image, request).weights
    assert on_device(image, request)["denoising"] == weights["flow"]
    # a score step keeps what the backward pass needs of every layer: some 20 widths for a token
    per_layer = 20 * 3072 * 2 * (1024 + 128)
    assert 24 * per_layer < working(image, request)["denoising"] < 2 * 34 * per_layer


def test_images_of_a_batch_are_denoised_one_by_one(image: Architecture):
    one, many = (working(image, Request(256, 256, 1, batch_size=size))["denoising"] for size in (1, 8))
    assert many < 1.05 * one


def test_what_is_given_takes_room_too(video: Architecture):
    edited = replace(SHORT, given=3, hidden=3)
    cache, more = (estimate_memory(video, request).cache for request in (SHORT, edited))
    assert more == 24 * 2 * 4096 * 2 * 2 * (256 + 6 * TOKENS)
    taken = working(video, edited)["sampling"] - working(video, SHORT)["sampling"]
    assert taken > more - cache  # as all that is given goes through at once


def test_processes_share_weights_and_cache(video: Architecture):
    whole, shared = (estimate_memory(video, replace(SHORT, processes=each)) for each in (1, 4))
    assert shared.cache == whole.cache // 4
    assert shared.weights["flow"] == pytest.approx(whole.weights["flow"] / 4, rel=0.01)
    assert shared.weights["vae"] == whole.weights["vae"]
    request = replace(SHORT, dtype=torch.float32, processes=4)
    flags = remedies(video, request, 16 * GIB)
    assert flags is not None
    assert not {flag.split()[0] for flag in flags} & {"--offload", "--quantize"}


def test_the_estimate_is_what_real_tensors_take():
    request = Request(64, 64, 17, dtype=torch.float32)
    estimated = working(load_architecture("toyworld"), request)
    pipeline = StarFlowPipeline.from_pretrained("toyworld")
    pipeline.set_progress_bar_config(disable=True)
    live = LiveBytes()
    with _Count(live):  # and real attention
        for _ in pipeline.stream("a red circle", output_type="pt", sampler="block-jacobi", frames_at_once=5):
            pass
    assert live.peak == pytest.approx(max(estimated.values()), rel=0.25)


@pytest.mark.parametrize(("height", "num_frames"), [(481, 81), (480, 80)])
def test_videos_that_the_vae_cannot_make(height: int, num_frames: int, video: Architecture):
    with pytest.raises(UsageError, match=r"multiples of 16 pixels|cannot make 80 frames"):
        estimate_memory(video, Request(height, 848, num_frames))


@pytest.mark.parametrize("gibibytes", [64, 40, 20, 14, 9])
def test_remedies_are_enough_and_none_is_idle(gibibytes: int, video: Architecture):
    request = replace(SHORT, dtype=torch.float32)
    flags = remedies(video, request, gibibytes * GIB)
    assert flags is not None
    assert (flags == []) == (gibibytes == 64)
    for kept in [flags, *([other for other in flags if other != flag] for flag in flags)]:
        asked = request
        for flag in kept:
            asked = replace(asked, **REMEDIES[flag])
        assert (estimate_memory(video, asked).peak <= gibibytes * GIB) == (kept == flags), kept


def test_a_model_without_a_denoiser_needs_all_its_layers(image: Architecture):
    request = Request(256, 256, 1)
    assert remedies(image, request, 10 * GIB) == ["--offload model", "--quantize int8"]
    assert remedies(image, request, 6 * GIB) is None
    assert estimate_memory(image, replace(request, offload="group")).peak < 6 * GIB


def test_refusing_early(video: Architecture):
    require_memory(video, SHORT, 80 * GIB)
    with pytest.raises(UsageError, match=r"needs about 2\d\.\d GiB .* has 16\.0 GiB free: add --\w+"):
        require_memory(video, SHORT, 16 * GIB)
    with pytest.raises(UsageError, match=r"make a smaller or shorter video$"):
        require_memory(video, SHORT, GIB)


def test_the_cpu_is_never_too_small():
    assert available_memory("cpu") is None
