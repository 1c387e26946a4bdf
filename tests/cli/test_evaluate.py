import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from starflow.cli.main import run
from starflow.media.video import write_video
from tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12).save_pretrained(folder)
    return str(folder)


def test_a_toyworld_model_is_evaluated(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--num-prompts", "2", "--num-two-object-prompts", "0", "--num-clips", "1"]
    options += ["--task-clips", "0", "--long-clips", "0"]
    options += ["--seed", "7", "--guidance-scale", "1", "--sampler", "sequential", "--tolerance", "0.1"]
    assert run(["evaluate", model, "-o", str(tmp_path / "out"), *options]) == 0
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert results["model"]["name"] == "tiny"  # the folder's name, not its path
    settings = {"seed": 7, "guidance_scale": 1, "sampler": "sequential", "tolerance": 0.1, "num_prompts": 2}
    assert settings.items() <= results["model"]["settings"].items()
    assert results["compliance"]["two_objects"] is None
    assert (tmp_path / "out" / "index.html").read_text().startswith("<!DOCTYPE html>")
    captured = capsys.readouterr()
    assert captured.err.startswith(f"loading {model} ...\nmeasuring vae (1 of 10)\nmeasuring likelihood (2 of 10)\n")
    assert "measuring surprise (10 of 10)" in captured.err
    lines = captured.out.splitlines()
    assert "evaluation.json" in lines[-1]
    assert any(line.startswith("negative log-likelihood") and "nats per dimension" in line for line in lines)
    assert any(line.startswith("one object: everything") for line in lines)
    assert not any("<" in line for line in lines)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Two clips at twice the model's rate, a picture, and a clip without a caption."""
    rng = np.random.default_rng(0)
    clips = tmp_path / "clips"
    for name in ("a", "b", "c"):
        write_video(clips / f"{name}.mp4", rng.integers(0, 256, (40, 80, 96, 3), dtype=np.uint8), 16)
    write_video(clips / "d.png", rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8), 0)
    for name in ("a", "b", "d"):
        (clips / f"{name}.txt").write_text(f"the caption {name}")
    return str(clips)


def test_a_model_is_evaluated_on_a_folder_of_clips(
    model: str, folder: str, tmp_path: Path, capsys, caplog: pytest.LogCaptureFixture
):
    assert run(["evaluate", model, "--data", folder, "-o", str(tmp_path / "out"), "--num-clips", "9"]) == 0
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert results["data"]["source"].startswith("folder ")
    assert results["vae"]["num_clips"] == 2
    assert "compliance" not in results
    captured = capsys.readouterr()
    assert "autoencoder, PSNR" in captured.out
    assert "c.mp4: no caption in c.txt" in captured.err
    assert '"the caption d") is left out: it is a picture' in caplog.text


def test_toyworld_options_with_a_folder_are_refused(model: str, folder: str, capsys: pytest.CaptureFixture[str]):
    options = ["--data", folder, "--num-prompts", "200", "--long-clips", "0"]
    check_error([model, *options], 2, "leave out --num-prompts, --long-clips", capsys)


def test_game_options_for_other_models_are_refused(model: str, folder: str, capsys: pytest.CaptureFixture[str]):
    check_error([model, "--game-clips", "3", "--minutes", "1"], 2, "leave out --game-clips, --minutes", capsys)
    check_error([model, "--data", folder, "--training", folder], 2, "leave out --training", capsys)


def test_a_missing_folder_of_clips_is_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    check_error([model, "--data", str(tmp_path / "no")], 2, "no folder of clips", capsys)


def check_error(arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]):
    assert run(["evaluate", *arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_missing_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    check_error([str(tmp_path / "no"), "-o", str(tmp_path / "out")], 1, "no model at", capsys)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_an_error(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    check_error([model, "-o", str(tmp_path / "file")], 1, "cannot write into", capsys)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [("a red circle\na red horse runs\n", 2, "line 2: not a toyworld caption"), (None, 1, "prompts.txt")],
)
def test_invalid_prompts_are_errors(model: str, tmp_path: Path, capsys, content: str | None, status: int, message: str):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_text(content)
    check_error([model, "-o", str(tmp_path / "out"), "--prompts", str(path)], status, message, capsys)


@pytest.mark.parametrize("module", ["matplotlib", "scipy"])
def test_a_missing_extra_is_an_error_that_names_it(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setitem(sys.modules, module, None)
    check_error(["toyworld", "-o", str(tmp_path)], 1, "pip install -c constraints.txt -e '.[evaluate]'", capsys)


@pytest.mark.parametrize(
    "option",
    [
        ["--num-clips", "0"],
        ["--long-seconds", "0"],
        ["--game-clips", "0"],
        ["--sampler", "magic"],
        ["--guidance-scale", "-1"],
    ],
)
def test_invalid_options_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]):
    check_error(["toyworld", *option], 2, option[0], capsys)
