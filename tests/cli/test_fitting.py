"""The options that make a model fit, and the check of memory, with a pretended amount of free memory."""

from pathlib import Path

import pytest
import torch

from starflow.cli import generate as command
from starflow.cli.main import run
from starflow.flow.model import StarFlow
from starflow.hardware import memory
from starflow.hardware.architecture import load_architecture
from starflow.media.video import read_metadata, read_video
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline


def generate(model: str, *arguments: str) -> int:
    return run(["generate", CAPTIONS[0], "--model", model, "--device", "cpu", *arguments])


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[StarFlowPipeline]:
    """The pipelines that the command loads."""
    pipelines, load = [], command.load_pipeline

    def note(*arguments: object) -> StarFlowPipeline:
        pipelines.append(load(*arguments))
        return pipelines[-1]

    monkeypatch.setattr(command, "load_pipeline", note)
    return pipelines


def test_options_reach_the_model(model: str, tmp_path: Path, loaded: list[StarFlowPipeline], capsys):
    options = ["--offload", "group", "--cache-dtype", "float8", "--tiling", "--quantize", "int8"]
    assert generate(model, "-o", f"{tmp_path}/clip.mp4", "--dtype", "bfloat16", *options) == 0
    assert read_video(tmp_path / "clip.mp4")[0].shape == (9, 32, 32, 3)
    (pipeline,) = loaded
    layer = pipeline.flow.deep.transformer.layers[0]
    assert hasattr(layer, "_diffusers_hook")
    assert type(layer.mlp.up.weight.data) is not torch.Tensor
    assert pipeline.flow.cache_dtype == torch.float8_e4m3fn
    assert pipeline.vae.use_tiling
    metadata = read_metadata(tmp_path / "clip.mp4")
    assert (metadata["quantize"], metadata["cache_dtype"]) == ("int8", "float8")
    assert f"{model}: loaded in " in capsys.readouterr().err


def test_the_defaults_change_nothing(model: str, tmp_path: Path, loaded: list[StarFlowPipeline]):
    assert generate(model, "-o", f"{tmp_path}/clip.mp4", "--cache-dtype", "bfloat16") == 0
    assert loaded[0].flow.cache_dtype == torch.bfloat16
    assert generate(model, "-o", f"{tmp_path}/clip.mp4") == 0
    assert loaded[1].flow.cache_dtype is None
    assert not loaded[1].vae.use_tiling
    assert not hasattr(loaded[1].flow.deep.transformer.layers[0], "_diffusers_hook")


def test_a_video_that_does_not_fit_is_an_error_before_loading(capsys, monkeypatch, loaded: list[StarFlowPipeline]):
    options = ["--num-frames", "9", "--cache-dtype", "float8", "--dtype", "float32"]
    assert run(["info", "toyworld", *options]) == 0
    needed = capsys.readouterr().out.rpartition("at most ")[2].split()[0]
    monkeypatch.setattr(memory, "available_memory", lambda _: memory.OVERHEAD + 10**7)
    assert generate("toyworld", *options, "-o", "clip.mp4") == 2
    loading, line = capsys.readouterr().err.splitlines()
    assert loading == "loading toyworld ..."
    assert line.startswith(f"starflow: error: this needs about {needed} GiB of memory")
    assert "this machine has 1.0 GiB free" in line
    assert loaded == []
    assert not Path("clip.mp4").exists()


def test_a_video_that_fits_is_made(model: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda _: memory.OVERHEAD + 10**7)
    assert generate(model, "-o", f"{tmp_path}/clip.mp4") == 0


@pytest.mark.parametrize(
    ("given", "frames", "hidden"), [("--video", 3, 3), ("--last-image", 1, 1), ("--image", 1, 0), ("--extend", 3, 0)]
)
def test_the_memory_check_counts_images_and_clips_given(
    given: str, frames: int, hidden: int, model: str, tmp_path: Path, monkeypatch
):
    requests = []

    def refuse(architecture: object, request: memory.Request, device: torch.device) -> None:
        requests.append(request)
        raise memory.UsageError("no")

    monkeypatch.setattr(memory, "require_memory", refuse)
    (tmp_path / "given.png").touch()
    options = ["--offload", "model", "--guidance-scale", "1", "--stream"]
    assert generate(model, given, f"{tmp_path}/given.png", *options) == 2
    (request,) = requests
    assert (request.given, request.hidden) == (frames, hidden)
    assert (request.offload, request.guidance, request.frames_at_once) == ("model", False, 1)
    assert request.num_frames == (17 if given == "--extend" else 9)


def test_int4_is_an_error_for_models_that_do_not_support_it(model: str, tmp_path: Path, capsys):
    assert generate(model, "--quantize", "int4") == 2
    assert "int4 needs layers with widths that are multiples of 128: choose --quantize int8" in capsys.readouterr().err
    for command_line in (["info", "starflow-3b"], ["generate", "a cat", "--model", "starflow-3b", "-o", "cat.png"]):
        assert run([*command_line, "--quantize", "int4"]) == 2
        assert "cannot pass through int4; choose --quantize int8" in capsys.readouterr().err


def test_a_pipeline_without_weights_has_the_settings():
    architecture = load_architecture("starflow-v-7b")
    pipeline = architecture.pipeline()
    assert (pipeline.config.height, pipeline.config.width, pipeline.config.guidance_scale) == (480, 848, 4.5)
    assert pipeline.codec.num_latent_frames(81) == 21
    assert isinstance(pipeline.flow, StarFlow)


def test_int4_packs_two_weights_per_byte(tmp_path: Path, loaded: list[StarFlowPipeline], capsys):
    pipeline = tiny_pipeline()
    flow = StarFlow(4, [1, 1], 1, 128, 128, 32, 16, position_length=2)
    pipeline.register_modules(flow=flow, denoiser=type(pipeline.denoiser)(4, 128, 1, 32, 16, position_length=2))
    pipeline.save_pretrained(tmp_path)
    options = ["--quantize", "int4", "--dtype", "bfloat16", "-o", f"{tmp_path}/clip.mp4"]
    assert generate(str(tmp_path), *options) == 0
    weight = loaded[0].flow.deep.transformer.layers[0].mlp.up.weight
    assert weight.qdata.dtype == torch.uint8  # two weights per byte
    assert weight.qdata.numel() == weight.numel() // 2
