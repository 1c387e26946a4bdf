"""The commands on a checkpoint in the released format: convert, generate, score, info and export."""

import json
from pathlib import Path

import pytest
import torch

from clip_sources import write_clip
from released_checkpoint import (
    IMAGE,
    VIDEO,
    released_state,
    save,
    save_components,
    save_image_components,
    write_config,
)
from starflow.cli.main import run
from starflow.convert.presets import released_model
from starflow.hardware import memory
from starflow.media.video import read_video
from starflow.pipeline.pipeline import StarFlowPipeline


def converted(folder: Path, arguments: dict) -> Path:
    """Convert a tiny released checkpoint; returns the model folder, next to its `model.pth`."""
    config = write_config(folder, arguments)
    torch.manual_seed(0)
    checkpoint = save(released_state(dict(released_model(config).arguments)), folder)
    assert run(["convert", str(checkpoint), "--config", str(config), "-o", str(folder / "model")]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def video_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    return converted(folder, VIDEO | save_components(folder))


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    return converted(folder, IMAGE | save_image_components(folder))


def test_generate_and_score_a_video(video_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = str(tmp_path / "corgi.mp4")
    assert run(["generate", "a corgi", "--model", str(video_model), "--device", "cpu", "-o", path]) == 0
    frames, fps = read_video(path)
    assert (frames.shape, fps) == ((9, 32, 48, 3), 8)
    capsys.readouterr()
    assert run(["score", path, "--prompt", "a corgi", "--model", str(video_model), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_dims"] == 3 * 4 * 2 * 3


def test_generate_and_score_an_image(image_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = str(tmp_path / "cat.png")
    assert not (image_model / "denoiser").exists()
    assert run(["generate", "a cat", "--model", str(image_model), "--device", "cpu", "-o", path]) == 0
    assert f"{path}: 32×32, an image" in capsys.readouterr().out
    assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert read_video(path)[0].shape == (1, 32, 32, 3)
    assert run(["score", path, "--prompt", "a cat", "--model", str(image_model), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_dims"] == 4 * 2 * 2


def test_info_and_the_round_trip_of_export(
    video_model: Path, image_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for model, words in ((video_model, "48×32, 9 frames"), (image_model, "32×32, an image")):
        assert run(["info", str(model)]) == 0
        assert f"{words}, batch of 1: at most" in capsys.readouterr().out
        again = tmp_path / f"{model.parent.name}.pth"
        assert run(["export", str(model), "-o", str(again)]) == 0
        before, after = (torch.load(path, weights_only=True) for path in (model.parent / "model.pth", again))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("apple/starflow", "apple/starflow has several models: choose starflow-v-7b or starflow-3b"),
        ("apple/starflow/starflow_3B_t2i_256x256.pth", "offline mode is on (HF_HUB_OFFLINE), and it is not in"),
        ("starflow-v-7b", "cannot download starflow-v_7B_t2v_caus_480p_v3.pth of apple/starflow: offline mode is on"),
        ("owner/name", "cannot download model_index.json of owner/name: offline mode is on (HF_HUB_OFFLINE)"),
    ],
)
def test_names_on_the_hub_are_errors_in_offline_mode(model: str, message: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("STARFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(memory, "available_memory", lambda _: None)
    assert run(["generate", "a cat", "--model", model, "--device", "cpu", "-o", str(tmp_path / "cat.png")]) in (1, 2)
    loading, line = capsys.readouterr().err.splitlines()
    assert loading == f"loading {model} ..."
    assert message in line


@pytest.mark.parametrize("kind", ["video", "image"])
def test_training_goes_on_from_a_released_model_and_keeps_its_settings(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
):
    init = request.getfixturevalue(f"{kind}_model")
    write_clip(tmp_path / "clips" / "a.mp4", "a corgi", 9, 32, 48, fps=8)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"output: {tmp_path}/run\ninit: {init}\ndata: {{source: folder, path: {tmp_path}/clips}}\nbatch_size: 1\n"
        "train_text_encoder: false\nloop: {num_steps: 2, decay_steps: 1, bf16: false}\n"
    )
    assert run(["train", "flow", str(config)]) == 0
    first, tuned = (StarFlowPipeline.from_pretrained(path) for path in (init, tmp_path / "run" / "final"))
    assert dict(tuned.config) | {"_name_or_path": ""} == dict(first.config) | {"_name_or_path": ""}
    assert (first.config.noise_std, first.config.caption_has_fps) == (0.5, kind == "video")
    assert (tuned.denoiser is None) == (kind == "image")
    before, after = first.flow.state_dict(), tuned.flow.state_dict()
    assert any(not torch.equal(before[name].bfloat16().float(), after[name]) for name in before)
