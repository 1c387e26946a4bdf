from pathlib import Path

import numpy as np
import pytest

from starflow.cli.main import run
from starflow.likelihood.inversion import load_noise
from starflow.media.video import read_metadata, read_video, write_video
from tiny_pipeline import CAPTIONS


def test_decode_is_the_inverse_of_encode(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clip, noise = str(tmp_path / "clip.webp"), str(tmp_path / "z.safetensors")
    write_video(clip, np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8)
    assert run(["encode", clip, "--model", model, "--prompt", CAPTIONS[0], "--seed", "6", "-o", noise]) == 0
    assert "standard deviation" in capsys.readouterr().out
    loaded = load_noise(noise)
    assert (loaded.prompt, loaded.noise_seed, loaded.z.shape) == (CAPTIONS[0], 6, (3, 4, 2, 2))

    clips = {}
    for name, prompt in {"own": [], "named": ["--prompt", CAPTIONS[0]], "other": ["--prompt", CAPTIONS[1]]}.items():
        path = tmp_path / f"{name}.png"  # PNG frames are lossless
        assert run(["decode", noise, "--model", model, "-o", str(path), *prompt]) == 0
        assert "largest residual" in capsys.readouterr().out
        clips[name], fps = read_video(path.with_suffix(""))
        assert fps == 8
    assert clips["own"].shape == (9, 32, 32, 3)
    np.testing.assert_array_equal(clips["own"], clips["named"])
    assert (clips["own"] != clips["other"]).any()
    assert read_metadata(tmp_path / "other")["prompt"] == CAPTIONS[1]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["encode", "clip.mp4"], 2, "give the caption with --prompt"),
        (["encode", "clip.mp4", "--prompt", "x", "-o", "z.pt"], 2, "name it .safetensors"),
        (["decode", "missing.safetensors"], 1, "no such file"),
        (["decode", "z.safetensors", "--prompt", ""], 2, "leave --prompt out"),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], status: int, message: str, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.removeprefix("loading toyworld ...\n").splitlines()) == 1


def test_a_file_of_another_kind_is_not_replaced(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    assert run(["encode", "clip.mp4", "--model", model, "--prompt", "x", "-o", str(weights)]) == 1
    assert "is not from starflow encode" in capsys.readouterr().err
    assert weights.read_bytes() == b"weights"
