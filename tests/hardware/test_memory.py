"""Memory estimates from the meta device, against closed formulas and against real tensors."""

from dataclasses import replace

import pytest
import torch

from starflow.errors import UsageError
from starflow.hardware import memory
from starflow.hardware.architecture import Architecture, load_architecture
from starflow.hardware.live_bytes import LiveBytes, _Count
from starflow.hardware.memory import GIB, OVERHEAD, Request, estimate_memory, remedies, require_memory
from starflow.pipeline.pipeline import StarFlowPipeline

CLIP = Request(480, 848, 81)
SHORT = Request(480, 848, 9)  # three latent frames, to keep the tests fast
TOKENS = 30 * 53  # per latent frame
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


def test_the_estimate_of_the_released_clip_matches_closed_formulas(video: Architecture):
    estimate = estimate_memory(video, CLIP)
    assert estimate.weights["flow"] + estimate.weights["denoiser"] == 2 * 6_890_096_528
    # keys and values of 24 layers, 4096 wide, of both branches of guidance, in bfloat16
    assert estimate.cache == 24 * 2 * 4096 * 2 * 2 * (256 + 21 * TOKENS)
    assert estimate.peak == max(stage.total for stage in estimate.stages) + OVERHEAD
    taken = {stage.name: stage.working for stage in estimate.stages}
    assert taken["sampling"] > estimate.cache
    assert max(taken["denoising"], taken["decoding"]) < 0.3 * estimate.cache  # the cache is freed after sampling


def test_the_cache_scales_with_guidance_dtype_batch_and_window(video: Architecture):
    cache = estimate_memory(video, SHORT).cache
    assert estimate_memory(video, replace(SHORT, guidance=False)).cache == cache // 2
    assert estimate_memory(video, replace(SHORT, cache_dtype=torch.float8_e4m3fn)).cache == cache // 2
    assert estimate_memory(video, replace(SHORT, batch_size=2)).cache == 2 * cache
    wide = estimate_memory(video, replace(SHORT, dtype=torch.float32))
    assert wide.cache == 2 * cache
    assert sum(wide.weights.values()) == 2 * sum(estimate_memory(video, SHORT).weights.values())
    rolling = estimate_memory(video, replace(SHORT, window=2)).cache
    assert rolling == 24 * 2 * 4096 * 2 * 2 * (256 + 2 * TOKENS)


def test_tiling_reduces_the_memory_of_decoding(video: Architecture):
    assert working(video, replace(SHORT, tiling=True))["decoding"] < 0.8 * working(video, SHORT)["decoding"]


def test_a_stream_keeps_its_cache_while_denoising(video: Architecture):
    cache = estimate_memory(video, SHORT).cache
    assert working(video, SHORT)["denoising"] < cache < working(video, replace(SHORT, frames_at_once=1))["denoising"]


def test_offloading_keeps_only_the_weights_in_use_on_the_device(video: Architecture):
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
def test_quantization_shrinks_the_flow_but_not_the_vae_and_the_text_encoder(
    quantize: str, share: float, video: Architecture
):
    plain, narrow = (estimate_memory(video, replace(SHORT, quantize=each)).weights for each in (None, quantize))
    assert narrow["flow"] == pytest.approx(share * plain["flow"], rel=0.05)
    assert narrow["vae"] == plain["vae"]
    assert narrow["text_encoder"] == plain["text_encoder"]


def test_the_image_model_denoises_with_the_flow(image: Architecture):
    request = Request(256, 256, 1, offload="model")
    weights = estimate_memory(image, request).weights
    assert on_device(image, request)["denoising"] == weights["flow"]
    # a score step keeps activations of every layer for the backward pass: about 20 times the width per token
    per_layer = 20 * 3072 * 2 * (1024 + 128)
    assert 24 * per_layer < working(image, request)["denoising"] < 2 * 34 * per_layer


def test_images_of_a_batch_are_denoised_one_at_a_time(image: Architecture):
    one, many = (working(image, Request(256, 256, 1, batch_size=size))["denoising"] for size in (1, 3))
    assert many < 1.05 * one


def test_given_frames_take_memory(video: Architecture):
    edited = replace(SHORT, given=3, hidden=3)
    cache, more = (estimate_memory(video, request).cache for request in (SHORT, edited))
    assert more == 24 * 2 * 4096 * 2 * 2 * (256 + 6 * TOKENS)
    taken = working(video, edited)["sampling"] - working(video, SHORT)["sampling"]
    assert taken > more - cache  # as all given frames are encoded at once


def test_processes_share_weights_and_cache(video: Architecture):
    whole, shared = (estimate_memory(video, replace(SHORT, processes=each)) for each in (1, 4))
    assert shared.cache == whole.cache // 4
    assert shared.weights["flow"] == pytest.approx(whole.weights["flow"] / 4, rel=0.01)
    assert shared.weights["vae"] == whole.weights["vae"]
    request = replace(SHORT, dtype=torch.float32, processes=4)
    flags = remedies(video, request, 16 * GIB)
    assert flags is not None
    assert not {flag.split()[0] for flag in flags} & {"--offload", "--quantize"}


def test_the_estimate_agrees_with_the_memory_of_real_tensors():
    request = Request(64, 64, 17, dtype=torch.float32)
    estimated = working(load_architecture("toyworld"), request)
    pipeline = StarFlowPipeline.from_pretrained("toyworld")
    pipeline.set_progress_bar_config(disable=True)
    live = LiveBytes()
    with _Count(live):  # with real attention
        for _ in pipeline.stream("a red circle", output_type="pt", sampler="block-jacobi", frames_at_once=5):
            pass
    assert live.peak == pytest.approx(max(estimated.values()), rel=0.25)


@pytest.mark.parametrize(("height", "num_frames"), [(481, 81), (480, 80)])
def test_sizes_and_lengths_that_the_vae_cannot_make_are_refused(height: int, num_frames: int, video: Architecture):
    with pytest.raises(UsageError, match=r"multiples of 16 pixels|cannot make 80 frames"):
        estimate_memory(video, Request(height, 848, num_frames))


@pytest.mark.parametrize("gibibytes", [64, 40, 20, 14, 9])
def test_remedies_are_sufficient_and_each_is_necessary(gibibytes: int, video: Architecture):
    request = replace(SHORT, dtype=torch.float32)
    flags = remedies(video, request, gibibytes * GIB)
    assert flags is not None
    assert (flags == []) == (gibibytes == 64)
    for kept in [flags, *([other for other in flags if other != flag] for flag in flags)]:
        asked = request
        for flag in kept:
            asked = replace(asked, **REMEDIES[flag])
        assert (estimate_memory(video, asked).peak <= gibibytes * GIB) == (kept == flags), kept


def test_group_offloading_is_no_remedy_for_a_model_without_a_denoiser(image: Architecture):
    request = Request(256, 256, 1)
    assert remedies(image, request, 10 * GIB) == ["--offload model", "--quantize int8"]
    assert remedies(image, request, 6 * GIB) is None
    assert estimate_memory(image, replace(request, offload="group")).peak < 6 * GIB


def test_a_video_that_needs_too_much_memory_is_refused(video: Architecture, monkeypatch: pytest.MonkeyPatch):
    def check(gibibytes: float | None, device: str, request: Request = SHORT) -> None:
        free = None if gibibytes is None else int(gibibytes * GIB)
        monkeypatch.setattr(memory, "available_memory", lambda _: free)
        require_memory(video, request, torch.device(device))

    for gibibytes, device in ((80, "cuda"), (None, "cuda"), (80, "cpu")):
        check(gibibytes, device)
    with pytest.raises(UsageError, match=r"needs about 2\d\.\d GiB .* the device has 16\.0 GiB free: add --offload"):
        check(16, "cuda")
    with pytest.raises(UsageError, match=r"make a smaller or shorter video$"):
        check(1, "cuda")
    with pytest.raises(UsageError, match=r"this machine has 16\.0 GiB free: add --tiling --quantize int8"):
        check(16, "cpu", replace(SHORT, offload="model"))


def test_on_the_cpu_only_unusual_videos_are_simulated(monkeypatch: pytest.MonkeyPatch):
    toyworld = load_architecture("toyworld")
    simulated = []
    monkeypatch.setattr(memory, "available_memory", lambda _: 10 * GIB)
    monkeypatch.setattr(memory, "_simulate", lambda *_: simulated.append(1) or (0, dict.fromkeys(memory.STAGES, GIB)))
    for request, is_simulated in (
        (Request(64, 64, 17), False),
        (Request(64, 64, 21), True),
        (Request(96, 64, 17), True),
    ):
        simulated.clear()
        require_memory(toyworld, request, torch.device("cpu"))
        assert bool(simulated) == is_simulated
    monkeypatch.setattr(memory, "available_memory", lambda _: OVERHEAD + 10**7)
    with pytest.raises(UsageError, match="this machine has"):
        require_memory(toyworld, Request(64, 64, 17), torch.device("cpu"))


def test_a_very_long_video_is_estimated_without_simulating_all_of_it(monkeypatch: pytest.MonkeyPatch):
    toyworld = load_architecture("toyworld")
    request = Request(64, 64, 65, dtype=torch.float32)
    short = working(toyworld, request)
    monkeypatch.setattr(memory, "STEADY_WINDOWS", 100)
    memory._simulate.cache_clear()
    assert short == pytest.approx(working(toyworld, request), rel=0.05)
    monkeypatch.undo()
    frames = 10**14 + 1
    assert estimate_memory(toyworld, replace(request, num_frames=frames)).peak > 2 * 4 * (frames // 4) * 24 * 16


def test_a_picture_is_encoded_by_a_vae_in_float32(video: Architecture):
    vae = sum(weight.numel() for weight in video.vae.parameters())
    half, brain = (
        working(video, replace(SHORT, given=1, dtype=dtype))["encoding"] for dtype in (torch.float16, torch.bfloat16)
    )
    assert half > brain + 4 * vae
    assert "encoding" not in working(video, SHORT)
