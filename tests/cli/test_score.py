import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from starflow.cli.main import run
from starflow.cli.score import CAVEAT
from starflow.likelihood.score import log_likelihood
from starflow.media.video import read_video, write_video
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline


def write_clip(path: Path, num_frames: int = 9, fps: float = 8, size: int = 32) -> str:
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8)
    return str(write_video(path, frames, fps))


def score(model: str, *arguments: str) -> int:
    return run(["score", "--model", model, *arguments])


def test_json_of_one_clip_and_prompt(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clip = write_clip(tmp_path / "clip.webp")
    assert score(model, clip, "--prompt", CAPTIONS[0], "--noise-samples", "3", "--seed", "2", "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == f"loading {model} ...\n{CAVEAT}\n"
    row = json.loads(captured.out)
    assert set(row) == {
        "model",
        "clip",
        "prompt",
        "log_likelihood",
        "standard_error",
        "nats_per_dim",
        "bits_per_dim",
        "per_frame",
        "num_dims",
        "noise_samples",
    }
    torch.manual_seed(0)
    (expected,) = log_likelihood(tiny_pipeline(), read_video(clip)[0], CAPTIONS[:1], noise_samples=3, seed=2)
    assert row["clip"] == clip
    assert row["prompt"] == CAPTIONS[0]
    assert row["log_likelihood"] == pytest.approx(expected.log_likelihood.mean, rel=1e-4)
    assert row["standard_error"] == pytest.approx(expected.log_likelihood.standard_error, rel=1e-2)
    assert row["bits_per_dim"] == pytest.approx(expected.bits_per_dim, rel=1e-4)
    assert sum(row["per_frame"]) == pytest.approx(row["log_likelihood"])
    assert row["noise_samples"] == 3


def test_json_of_several_clips_and_prompts_with_the_empty_caption(model: str, tmp_path: Path, capsys):
    clips = [write_clip(tmp_path / "a.mp4"), write_clip(tmp_path / "b.mp4", 5)]
    prompts = ["--prompt", CAPTIONS[0], "--prompt", "ünïcode"]
    assert score(model, *clips, *prompts, "--null", "--json", "--noise-samples", "1") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["clip"], row["prompt"]) for row in rows] == [(c, p) for c in clips for p in (CAPTIONS[0], "ünïcode")]
    for row in rows:
        assert row["standard_error"] is None
        assert row["gain"] == pytest.approx(row["log_likelihood"] - row["null_log_likelihood"])
    assert rows[0]["null_log_likelihood"] == rows[1]["null_log_likelihood"]
    assert [len(row["per_frame"]) for row in rows] == [3, 3, 2, 2]


def test_the_table_lists_the_best_caption_first(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clip = write_clip(tmp_path / "clip.webp")
    options = [word for caption in CAPTIONS for word in ("--prompt", caption)]
    assert score(model, clip, *options, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    best = max(rows, key=lambda row: row["log_likelihood"])
    assert score(model, clip, *options, "--null", "--noise-samples", "2") == 0
    title, header, *table, verdict = capsys.readouterr().out.splitlines()
    assert "3 latent frames, 48 dimensions, 2 draws" in title
    assert "gain of the caption" in header
    assert len(table) == 3
    assert table[0].endswith(best["prompt"])
    assert verdict.startswith("fits best, by ") and verdict.endswith(best["prompt"])


def test_the_table_of_one_caption_has_no_comparison(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert score(model, write_clip(tmp_path / "clip.webp"), "--prompt", CAPTIONS[0], "--noise-samples", "1") == 0
    title, header, row = capsys.readouterr().out.splitlines()
    assert "1 draw of noise" in title
    assert "gain" not in header
    assert row.endswith(CAPTIONS[0])


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """A file of two clips and captions."""
    for name, num_frames in (("a.webp", 9), ("b.webp", 5)):
        write_clip(tmp_path / name, num_frames)
    file = tmp_path / "pairs.tsv"
    file.write_text(f"a.webp\t{CAPTIONS[0]}\n\nb.webp\t {CAPTIONS[1]}\n")
    return str(file)


def test_pairs_of_clips_and_captions_are_scored_as_on_their_own(model: str, pairs: str, tmp_path: Path, capsys):
    assert score(model, "--pairs", pairs, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(Path(row["clip"]).name, row["prompt"]) for row in rows] == [
        ("a.webp", CAPTIONS[0]),
        ("b.webp", CAPTIONS[1]),
    ]
    assert score(model, str(tmp_path / "b.webp"), "--prompt", CAPTIONS[1], "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows[1]
    assert score(model, "--pairs", pairs, "--null") == 0
    header, *table = capsys.readouterr().out.splitlines()
    assert "gain of the caption" in header
    assert len(table) == 2
    assert table[1].endswith(f"b.webp  {CAPTIONS[1]}")


def test_two_models_side_by_side(model: str, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pipeline = tiny_pipeline()
    pipeline.vae.load_state_dict(StarFlowPipeline.from_pretrained(model).vae.state_dict())
    pipeline.save_pretrained(tmp_path / "same-vae")
    pipeline.register_to_config(noise_std=0.5)
    pipeline.save_pretrained(tmp_path / "other-noise")
    for name, is_comparable in (("same-vae", True), ("other-noise", False)):
        assert score(model, "--pairs", pairs, "--against", str(tmp_path / name)) == 0
        captured = capsys.readouterr()
        header, *table = captured.out.splitlines()
        assert f"{model}, nats/dim" in header and f"{name}, nats/dim" in header
        assert ("likelier by" in header) == is_comparable
        assert len(table) == 2
        assert captured.err.splitlines()[-1].startswith("warning: ") != is_comparable
        assert CAVEAT in captured.err


def test_a_model_against_itself_differs_by_nothing(model: str, pairs: str, capsys: pytest.CaptureFixture[str]):
    assert score(model, "--pairs", pairs, "--against", model) == 0
    for row in capsys.readouterr().out.splitlines()[1:]:
        first, second, difference = row.split()[:3]
        assert first == second
        assert float(difference) == 0


def test_the_frame_rate_of_a_folder_of_frames(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(frame).save(folder / f"{index:03d}.png")
    assert score(model, str(folder), "--prompt", CAPTIONS[0], "--input-fps", "16", "--json") == 0
    captured = capsys.readouterr()
    assert "16 fps: resampled to the 8 fps" in captured.err
    assert len(json.loads(captured.out)["per_frame"]) == 3
    noise = str(tmp_path / "z.safetensors")
    arguments = ["--prompt", CAPTIONS[0], "--input-fps", "16", "-o", noise]
    assert run(["encode", str(folder), "--model", model, *arguments]) == 0
    assert "16 fps: resampled to the 8 fps" in capsys.readouterr().err


def test_a_heatmap_and_a_plot_are_written(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    heatmap = tmp_path / "heat.gif"
    clip = write_clip(tmp_path / "clip.webp", 5)
    assert score(model, clip, "--prompt", CAPTIONS[0], "--json", "--heatmap", str(heatmap)) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert str(heatmap) in captured.err
    assert len(read_video(heatmap)[0]) == 5
    assert read_video(heatmap.with_suffix(".png"))[0].shape[0] == 1


def test_changes_of_a_clip_are_reported(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=24, fps=16, size=48)
    assert score(model, clip, "--prompt", CAPTIONS[0], "--json") == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["per_frame"]) == 3
    _, rate, size, length, _ = captured.err.splitlines()
    assert "16 fps: resampled to the 8 fps" in rate
    assert "48×48: scaled and cropped to 32×32" in size
    assert "more than 9 frames at 8 fps: the first 9 are used" in length


def write_sound(path: Path) -> str:
    """An .mp4 with sound and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def check_error(model: str, arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]):
    assert score(model, *arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert len(captured.err.removeprefix(f"loading {model} ...\n").splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a clip to score"),
        (["clip.mp4"], "give a caption with --prompt"),
        (["clip.mp4", "--prompt", " "], "give a caption with --prompt"),
        (["a.mp4", "b.mp4", "--prompt", "x", "--heatmap", "heat.mp4"], "one clip under one caption"),
        (["a.mp4", "--prompt", "x", "--prompt", "y", "--heatmap", "heat.mp4"], "one clip under one caption"),
        (["a.mp4", "--prompt", "x", "--against", "y", "--heatmap", "heat.mp4"], "for one model"),
        (["--pairs", __file__], "line 1: write the path of a clip, a tab and its caption"),
        (["clip.mp4", "--pairs", "pairs.tsv"], "leave out CLIP and --prompt"),
        (["clip.mp4", "--prompt", "x", "--heatmap", "heat.xyz"], "unknown extension '.xyz'"),
    ],
)
def test_wrong_usage_is_one_clear_error(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    check_error("no-such-model", arguments, 2, message, capsys)


def test_bad_clips_are_one_clear_error(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "corrupt.mp4").write_bytes(b"nothing like a video")
    for path, message in {
        str(tmp_path / "missing.mp4"): "no such file",
        str(tmp_path / "empty.mp4"): "0 bytes",
        str(tmp_path / "corrupt.mp4"): "corrupt",
        write_sound(tmp_path / "sound.mp4"): "contains no video",
        write_clip(tmp_path / "short.mp4", 4): "is too short: it has 4 frames at 8 fps, the model needs at least 5",
        write_clip(tmp_path / "image.png", 1, 0): "still image",
    }.items():
        check_error(model, [path, "--prompt", "x"], 1, message, capsys)


def test_a_heatmap_without_matplotlib_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["clip.mp4", "--prompt", "x", "--heatmap", str(tmp_path / "heat.mp4")]
    check_error("no-such-model", arguments, 1, "'.[evaluate]'", capsys)
