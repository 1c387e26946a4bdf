import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clip_sources import write_clip
from processes import run_processes
from shared_work import encode_clips
from starflow.cli.main import run
from starflow.data.sources import source_config
from starflow.encoders.video import VideoCodec
from tiny_pipeline import tiny_pipeline, tiny_vae

CONFIG = """
output: {folder}/run
data: {{source: folder, path: nowhere}}
vae: {folder}/vae
pipeline: {{num_frames: 9, fps: 8, height: 32, width: 32, max_text_tokens: 24}}
buckets: {{num_frames: [5]}}
batch_size: 2
flow: {{shallow_layers: [1], deep_layers: 1, shallow_width: 20, deep_width: 20, head_dim: 20}}
denoiser: {{width: 20, num_layers: 1}}
text: {{vocab_size: 300, width: 16, num_layers: 1}}
loop: {{num_steps: 1, decay_steps: 0, bf16: false}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    clips = tmp_path / "clips"
    for index in range(3):
        write_clip(clips / f"{index}.mp4", f"clip {index}", 9 - 2 * index, 32, 48, 8, seed=index)
    write_clip(clips / "short.mp4", "short", 2, 32, 32, 8)
    write_clip(clips / "silent.mp4", "", 9, 32, 32, 8)
    tiny_vae().save_pretrained(tmp_path / "vae")
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "config.yaml"


def test_check_prints_counts_buckets_and_what_is_left_out(config: Path, capfd: pytest.CaptureFixture[str]):
    clips, sheet = config.parent / "clips", config.parent / "sheet.png"
    assert run(["data", "check", str(clips), "--config", str(config), "--sheet", str(sheet), "--workers", "0"]) == 0
    told = capfd.readouterr().out
    for line in (
        "4 videos (2.88 s) and 0 pictures",
        "frames of a video: 2 to 9",
        "sizes: 48x32 (3), 32x32 (1)",
        "  5 frames of 32×32: 2 clips",
        "  9 frames of 32×32: 1 clips",
        "left out: 2",
        f"  {clips / 'silent.mp4'}: no caption in silent.txt",
        f"  {clips / 'short.mp4'}: has 2 frames at 8 fps, and the model's clips have 5",
        "duplicates: none",
    ):
        assert line in told.splitlines()
    assert Image.open(sheet).width > 500


def test_check_of_a_model_finds_captions_that_are_too_long(config: Path, capfd: pytest.CaptureFixture[str]):
    clips = config.parent / "clips"
    (clips / "1.txt").write_text("many words " * 100)
    text = config.read_text().replace(f"vae: {config.parent}/vae", "init: toyworld").replace("max_text_tokens: 24", "")
    config.write_text(text)
    assert run(["data", "check", str(clips), "--config", str(config), "--json", "--workers", "0"]) == 0
    about = json.loads(capfd.readouterr().out)
    assert len(about["long_captions"]) == 1
    assert about["long_captions"][0].startswith(f"{clips / '1.mp4'}: the end of the caption is cut off, from ")


def test_check_needs_no_config(config: Path, capfd: pytest.CaptureFixture[str]):
    assert run(["data", "check", str(config.parent / "clips"), "--json", "--workers", "0"]) == 0
    about = json.loads(capfd.readouterr().out)
    assert about["videos"] == 4 and about["buckets"] is None and len(about["left_out"]) == 1
    assert about["long_captions"] is None
    assert run(["data", "check", str(config.parent / "clips"), "--workers", "0"]) == 0
    assert "captions longer than the text encoder takes: not checked, as" in capfd.readouterr().out


def test_what_was_encoded_is_not_encoded_again_by_training(
    config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = config.parent
    arguments = ["data", "encode", str(folder / "clips"), "-o", str(folder / "latents"), "--config", str(config)]
    assert run([*arguments, "--workers", "0"]) == 0
    told = capfd.readouterr()
    assert f"train with latents={folder / 'latents'}" in told.err
    assert "short.mp4: has 2 frames" in told.out
    with monkeypatch.context() as patch:
        patch.setattr(VideoCodec, "encode", lambda *_: pytest.fail("encoded again"))
        assert run([*arguments, "--workers", "0"]) == 0
        assert "short.mp4: has 2 frames" in (folder / "latents" / "left_out.txt").read_text()
        training = [f"data.path={folder / 'clips'}", f"latents={folder / 'latents'}", "loop.num_steps=1"]
        patch.setattr("starflow.train.flow.write_preview", lambda *_: None)
        assert run(["train", "flow", str(config), *training]) == 0


def test_clips_are_encoded_for_a_model_without_a_config(config: Path, tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    arguments = ["-o", str(tmp_path / "latents"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    assert run(["data", "encode", str(tmp_path / "clips"), *arguments]) == 0
    left_out = (tmp_path / "latents" / "left_out.txt").read_text()
    assert "1.mp4: has 7 frames at 8 fps, and the model's clips have 9" in left_out and "silent.mp4" in left_out


def test_captions_are_encoded_for_a_lora(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    lora = tmp_path / "lora.yaml"
    loop = "loop: {num_steps: 1, decay_steps: 0, bf16: false, preview_every: 0}"
    lora.write_text(f"init: {tmp_path}/model\noutput: {tmp_path}/run\ndata: {{}}\nlora: {{rank: 2}}\n{loop}\n")
    arguments = ["-o", str(tmp_path / "latents"), "--config", str(lora), "--workers", "0"]
    assert run(["data", "check", str(tmp_path / "clips"), "--config", str(lora), "--workers", "0"]) == 0
    assert run(["data", "encode", str(tmp_path / "clips"), *arguments]) == 0
    assert list((tmp_path / "latents").glob("texts-*.safetensors"))
    monkeypatch.setattr("starflow.data.texts.write_shard", lambda *_: pytest.fail("encoded again"))
    data = f"data={{source: folder, path: {tmp_path}/clips}}"
    assert run(["train", "lora", str(lora), data, f"latents={tmp_path}/latents"]) == 0


def test_several_processes_encode_together(config: Path, tmp_path: Path):
    for index in range(3, 9):
        write_clip(tmp_path / "clips" / f"{index}.mp4", f"clip {index}", 9, 32, 32, 8, seed=index)
    arguments = (str(tmp_path / "clips"), "-o", str(tmp_path / "latents"), "--config", str(config), "--workers", "0")
    assert run_processes(2, encode_clips, *arguments, log=tmp_path) == [0, 0]
    assert run(["data", "encode", *arguments]) == 0  # nothing is left to encode
    assert len(list((tmp_path / "latents").glob("clips-*"))) == 5  # ten clips in shards of two
    reasons = (tmp_path / "latents" / "left_out.txt").read_text()
    assert reasons.count("\n") == 2  # without a caption, and too short


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["check", "nowhere"], 2, "no folder of clips at nowhere"),
        (["check", "nowhere.csv"], 2, "no table of clips at nowhere.csv"),
        (["check", "{clips}", "--config", "nowhere.yaml"], 2, "no config file at nowhere.yaml"),
        (["check", "{clips}", "--sheet", "sheet.jpg", "--workers", "0"], 2, "name it .png"),
        (["encode", "{clips}", "-o", "{config}", "--config", "{config}", "--workers", "0"], 1, "config.yaml"),
    ],
)
def test_mistakes_are_one_line(config: Path, arguments, status: int, message: str, capfd):
    filled = [each.format(clips=config.parent / "clips", config=config) for each in arguments]
    assert run(["data", *filled]) == status
    assert message in capfd.readouterr().err.splitlines()[-1]


def test_the_kind_of_a_source_is_found(config: Path, tmp_path: Path):
    clips = tmp_path / "clips"
    assert source_config(str(clips)) == {"source": "folder", "path": str(clips)}
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "basic-000000.safetensors").touch()
    episodes = str(tmp_path / "episodes")
    assert source_config(episodes) == {"source": "episodes", "path": episodes}
    assert source_config("clips.jsonl")["source"] == source_config("clips.parquet")["source"] == "table"
    assert source_config("s3://bucket/{00..10}.tar") == {"source": "webdataset", "path": "s3://bucket/{00..10}.tar"}
    (clips / "metadata.csv").write_text("file_name,text\n0.mp4,a\n")
    assert source_config(str(clips))["source"] == "table"
    shutil.copy(clips / "metadata.csv", tmp_path / "0.tar")
    assert source_config(str(tmp_path))["source"] == "table"
