from pathlib import Path

import pytest
import torch

from starflow.cli.main import run
from starflow.video import read_metadata, read_video
from tiny_pipeline import CAPTIONS, tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


def generate(model: str, *arguments: str) -> int:
    return run(["generate", "--model", model, *arguments])


def test_a_video_with_its_settings_and_one_line_of_summary(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, sheet = tmp_path / "clip.mp4", tmp_path / "sheet.png"
    assert generate(model, CAPTIONS[0], "-o", str(path), "--seed", "3", "--contact-sheet", str(sheet)) == 0
    frames, fps = read_video(path)
    assert frames.shape == (9, 32, 32, 3)
    assert fps == 8
    metadata = read_metadata(path)
    assert metadata["prompt"] == CAPTIONS[0]
    assert metadata["seed"] == 3
    assert sheet.stat().st_size > 0
    (line,) = capsys.readouterr().out.splitlines()
    assert str(path) in line
    assert "32×32" in line
    assert "9 frames" in line
    assert "sweeps" in line


def test_same_seed_same_file(model: str, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        assert generate(model, CAPTIONS[0], "-o", str(tmp_path / name)) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_file_of_prompts(model: str, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"# a comment\n\n{CAPTIONS[0]}\nsomething else: ünïcode!\n")
    assert generate(model, "--prompts", str(prompts), "-o", str(tmp_path / "clips"), "--seed", "5") == 0
    files = sorted((tmp_path / "clips").iterdir())
    assert [read_metadata(file)["seed"] for file in files] == [5, 6]
    assert generate(model, CAPTIONS[0], "-o", str(tmp_path / "alone.mp4"), "--seed", "5") == 0
    assert (tmp_path / "alone.mp4").read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "frames/"])
def test_formats(model: str, tmp_path: Path, name: str):
    assert generate(model, CAPTIONS[0], "-o", f"{tmp_path}/{name}") == 0
    assert len(read_video(tmp_path / name)[0]) == 9


def test_an_image(model: str, tmp_path: Path):
    assert generate(model, CAPTIONS[0], "--num-frames", "1", "-o", str(tmp_path / "image.png")) == 0
    assert read_video(tmp_path / "image.png")[0].shape == (1, 32, 32, 3)


def test_a_number_of_frames_that_cannot_be_is_rounded_and_said(model: str, tmp_path: Path, capsys):
    assert generate(model, CAPTIONS[0], "--num-frames", "12", "-o", str(tmp_path / "clip.mp4")) == 0
    assert "cannot make 12 frames: making 13" in capsys.readouterr().err
    assert len(read_video(tmp_path / "clip.mp4")[0]) == 13


def test_prompt_outside_the_grammar_is_only_text(model: str, tmp_path: Path):
    assert generate(model, "Ein Pferd auf dem Mond 🐎", "-o", str(tmp_path / "clip.mp4")) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([""], 2, "prompt is empty"),
        ([], 2, "give a prompt"),
        (["x", "--prompts", "y.txt"], 2, "not both"),
        (["x", "-o", "clip.xyz"], 2, "xyz"),
        (["x", "--num-frames", "0"], 2, "num-frames"),
        (["x", "--device", "toaster"], 2, "toaster"),
        (["x", "-o", "/proc/nowhere/clip.mp4"], 1, "/proc/nowhere"),
        (["--prompts", "missing.txt", "-o", "clips"], 1, "missing.txt"),
    ],
)
def test_bad_input_is_one_line(
    model: str, arguments: list[str], status: int, message: str, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert generate(model, *arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert generate(str(tmp_path / "no"), "x", "-o", str(tmp_path / "clip.mp4")) == 1
    assert "no model at" in capsys.readouterr().err
    assert not (tmp_path / "clip.mp4").exists()
