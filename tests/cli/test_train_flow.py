"""`starflow train flow` from a folder of clips to a model that makes such clips."""

from pathlib import Path

import pytest

from clip_sources import write_clip
from starflow.cli.main import run
from starflow.cli.train import _load
from starflow.media.video import read_video
from starflow.train.config import FlowTrainConfig
from tiny_pipeline import tiny_vae

CONFIG = """
output: {folder}/run
data:
  source: folder
  path: {folder}/clips
vae: {folder}/vae
pipeline:
  num_frames: 9
  fps: 12
  height: 96
  width: 128
  noise_std: 0.3
  max_text_tokens: 24
batch_size: 2
flow: {{shallow_layers: [1], deep_layers: 1, shallow_width: 20, deep_width: 20, head_dim: 20}}
denoiser: {{width: 20, num_layers: 1}}
text: {{vocab_size: 300, width: 16, num_layers: 1}}
loop:
  num_steps: 4
  decay_steps: 2
  bf16: false
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    clips = tmp_path / "clips"
    for index in range(3):
        write_clip(clips / f"{index}.mp4", f"noise number {index}", 9, 96, 128, fps=12, seed=index)
    write_clip(clips / "large.mp4", "large noise", 20, 128, 192, fps=24)
    write_clip(clips / "picture.png", "a picture of noise", 1, 96, 128, fps=0)
    write_clip(clips / "short.mp4", "short noise", 5, 96, 128, fps=12)
    write_clip(clips / "silent.mp4", "", 9, 96, 128, fps=12)
    (clips / "broken.mp4").write_bytes(b"no video")
    (clips / "broken.txt").write_text("a broken file")
    tiny_vae().save_pretrained(tmp_path / "vae")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    assert len(CONFIG.splitlines()) < 30
    return path


def test_a_folder_of_clips_becomes_a_model_that_makes_such_clips(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["train", "flow", str(config)]) == 0
    told = capsys.readouterr().out
    model = tmp_path / "run" / "final"
    assert f"trained model: {model}" in told
    assert f"try it: starflow generate 'noise number 0' --model {model} -o video.mp4" in told
    assert "tasks: text_to_video 71%, image 14%, last 14%; not trained: extend, video_to_video" in told
    left_out = (tmp_path / "run" / "latents" / "left_out.txt").read_text()
    for name, reason in (("short", "has 5 frames"), ("silent", "no caption"), ("broken", "")):
        assert f"{name}.mp4" in left_out and reason in left_out
        assert f"{name}.mp4" in told

    video, image, clip = tmp_path / "video.mp4", tmp_path / "clips" / "picture.png", tmp_path / "clips" / "0.mp4"
    for options, num_frames in (([], 9), (["--image", str(image)], 9), (["--extend", str(clip)], 17)):
        assert run(["generate", "noise number 0", "--model", str(model), "-o", str(video), *options]) == 0
        frames, fps = read_video(video)
        assert frames.shape == (num_frames, 96, 128, 3)
        assert fps == 12


def test_training_again_needs_resume_and_another_format_is_encoded_anew(
    config: Path, capfd: pytest.CaptureFixture[str]
):
    assert run(["train", "flow", str(config), "loop.num_steps=1", "loop.decay_steps=0"]) == 0
    assert run(["train", "flow", str(config)]) == 2
    assert "continue it with --resume" in capfd.readouterr().err.splitlines()[-1]
    assert run(["train", "flow", str(config), "--resume", "loop.num_steps=2", "loop.decay_steps=0"]) == 0
    capfd.readouterr()
    assert run(["train", "flow", str(config), "--resume", "pipeline.num_frames=5"]) == 0
    told = capfd.readouterr().out
    assert "stale: 7 were made with num_frames 9 instead of 5" in told
    assert "7 of 7 clips are new or changed, and are encoded" in told


def test_clips_of_several_sizes_and_lengths_are_trained_in_buckets(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_clip(tmp_path / "clips" / "tall.mp4", "tall noise", 9, 128, 72, fps=12)
    buckets = ["frames=chunks", "buckets.aspect_ratios=['9:16','1:1']", "buckets.num_frames=[5]"]
    assert run(["train", "flow", str(config), "pipeline.caption_has_aspect_ratio=true", *buckets]) == 0
    told = capfd.readouterr().out
    assert "text_to_video, 9 frames of 80×144: has 1 of the 2 clips of a batch, in which clips repeat" in told
    assert "short.mp4" not in told  # it has five frames


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path=nowhere", "no folder of clips at nowhere"),
        ("data.source=foldr", "there is no source 'foldr': did you mean folder?"),
        ("data.pth=clips", "the source folder has no argument 'pth': did you mean 'path'?"),
        ("vae=null", "set `vae`, the folder of a trained autoencoder, or `init`, a model to start from"),
        ("pipeline.num_frames=null", "without init, the config must set pipeline.num_frames"),
        ("pipeline.num_frames=10", "cannot make 10 frames: the nearest possible number is 9"),
        ("tasks.extend=0.1", "no clip is longer than the model's: set tasks.extend=0"),
        ("auxiliary_loss=toyworld-grounding", "needs the clips of toyworld"),
        ("init=nowhere", "nowhere"),
        ("frames=all", "frames must be head or uniform or chunks or random, not 'all'"),
        ("buckets.aspect_ratios=[wide]", "'wide' is not an aspect ratio"),
        ("buckets.num_frames=[6]", "cannot make 6 frames"),
    ],
)
def test_mistakes_are_errors(config: Path, override: str, message: str, capfd: pytest.CaptureFixture[str]):
    assert run(["train", "flow", str(config), override]) in (1, 2)
    assert message in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["20240101_1200", "1e3", "null", "a: b", "{a}", "my run"])
def test_every_folder_name_can_be_the_output(config: Path, name: str):
    assert _load(FlowTrainConfig, str(config), (), name).output == name


def test_help_shows_how_to_start(capfd: pytest.CaptureFixture[str]):
    assert run(["train", "flow", "--help"]) == 0
    assert "starflow train flow recipes/clips/flow.yaml data.path=clips/" in capfd.readouterr().out
