import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from clip_sources import ClipList, moving_noise
from starflow.data import latents
from starflow.data.clip import Clip, ClipSource, Edit
from starflow.data.fitting import ClipFormat
from starflow.data.latents import LatentCache, open_latent_cache
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError, UsageError
from starflow.media.frames import to_tensor
from starflow.toyworld.source import Toyworld
from tiny_pipeline import tiny_vae

FORMAT = ClipFormat(num_frames=9, fps=8, height=32, width=32)
SOURCE = ClipList(
    [
        Clip(moving_noise(9, seed=0), 8, ["zero", "none"], ["picture of zero"]),
        None,
        Clip(moving_noise(1, seed=2), 0, ["two"]),
        Clip(moving_noise(5, seed=3), 8, ["three"], name="three.mp4"),
        Clip(moving_noise(30, seed=4), 8, ["four"], edits=[Edit("turn", moving_noise(9, seed=5))]),
    ],
    left_out=["five.mp4: no caption in five.txt"],
)
LEFT_OUT = [
    "five.mp4: no caption in five.txt",
    "clip-1.mp4 is corrupt",
    "three.mp4: has 5 frames at 8 fps, and the model's clips have 9",
]


@pytest.fixture(scope="module")
def codec() -> VideoCodec:
    torch.manual_seed(0)
    return VideoCodec(tiny_vae())


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "CLIPS_PER_SHARD", 2)


def open_cache(folder: Path, codec: VideoCodec, source: ClipSource = SOURCE, to: ClipFormat = FORMAT) -> LatentCache:
    return open_latent_cache(folder, source, codec, to, show_progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, codec: VideoCodec) -> Path:
    path = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(latents, "CLIPS_PER_SHARD", 2)
        open_cache(path, codec)
    return path


def assert_encoded(got: torch.Tensor, codec: VideoCodec, video) -> None:
    torch.testing.assert_close(got, codec.encode(to_tensor(video)[None])[0], atol=2e-3, rtol=1e-2)


def test_holds_the_latents_and_captions_of_the_clips_that_can_be_used(folder: Path, codec: VideoCodec):
    cache = open_cache(folder, codec)
    assert cache.num_latent_frames == 3
    assert [(clip.index, clip.num_latent_frames) for clip in cache.clips] == [(0, 3), (2, 1), (4, 8)]
    assert cache.clips[0].captions == ["zero", "none"]
    assert [clip.image_captions for clip in cache.clips] == [["picture of zero"], ["two"], ["four"]]
    assert [clip.instructions for clip in cache.clips] == [{}, {}, {0: "turn"}]
    assert_encoded(cache.read(0, "clip"), codec, SOURCE[0].video)
    assert_encoded(cache.read(0, "last"), codec, SOURCE[0].video[8:9])
    assert_encoded(cache.read(2, "clip"), codec, SOURCE[2].video)
    assert_encoded(cache.read(4, "clip"), codec, SOURCE[4].video[:29])
    assert_encoded(cache.read(4, "last"), codec, SOURCE[4].video[8:9])
    assert_encoded(cache.read(4, "edit.0"), codec, SOURCE[4].edits[0].video)


def test_excerpts_are_read_by_themselves(folder: Path, codec: VideoCodec):
    cache = open_cache(folder, codec)
    assert torch.equal(cache.read(4, "clip", 2, 3), cache.read(4, "clip")[2:5])
    assert torch.equal(cache.read(4, "clip", length=3), cache.read(4, "clip")[:3])


def test_what_is_left_out_is_named(tmp_path: Path, codec: VideoCodec, capsys: pytest.CaptureFixture[str]):
    assert open_cache(tmp_path, codec).left_out == LEFT_OUT
    assert (tmp_path / "left_out.txt").read_text().splitlines() == LEFT_OUT
    assert [line.removeprefix("left out: ") for line in capsys.readouterr().out.splitlines()] == LEFT_OUT


def test_many_that_are_left_out_are_counted(tmp_path: Path, codec: VideoCodec, capsys: pytest.CaptureFixture[str]):
    open_cache(tmp_path, codec, ClipList([SOURCE[0], *[None] * 14]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == latents.NAMED_ON_TERMINAL + 1
    assert lines[-1] == f"left out: 4 more, named in {tmp_path / 'left_out.txt'}"


def test_nothing_that_can_be_used_is_an_error(tmp_path: Path, codec: VideoCodec):
    with pytest.raises(StarflowError, match=r"no clip to train on: clip-0.mp4 is corrupt"):
        open_cache(tmp_path, codec, ClipList([None, None]))


def test_is_made_once(folder: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(VideoCodec, "encode", lambda *_: pytest.fail("encoded again"))
    assert len(open_cache(folder, codec).clips) == 3


def test_an_interrupted_one_goes_on_with_the_shard_that_is_missing(
    folder: Path, tmp_path: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch
):
    encode, calls = VideoCodec.encode, []

    def interrupted(self: VideoCodec, video: torch.Tensor) -> torch.Tensor:
        calls.append(video.shape)
        if len(calls) == 3:  # of the second shard
            raise KeyboardInterrupt
        return encode(self, video)

    monkeypatch.setattr(VideoCodec, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_cache(tmp_path, codec)
    assert sorted(path.name for path in tmp_path.glob("clips-*")) == [
        "clips-0000000.json",
        "clips-0000000.safetensors",
    ]
    resumed, whole = open_cache(tmp_path, codec), open_cache(folder, codec)
    assert resumed.clips == whole.clips
    assert torch.equal(resumed.read(4, "clip"), whole.read(4, "clip"))
    first_shard = {(1, 9, 3, 32, 32), (1, 1, 3, 32, 32)}
    assert {tuple(shape) for shape in calls[:2]} == first_shard
    assert (1, 9, 3, 32, 32) in calls[3:] and len(calls[3:]) == 4  # a picture, a long clip, its last frame and its edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ClipList(SOURCE.clips, "another list")}, "made with another source: name another folder"),
        ({"to": ClipFormat(9, 12, 32, 48)}, "made with fps 8 instead of 12 and width 32 instead of 48"),
        ({"to": ClipFormat(5, 8, 32, 32)}, "made with num_frames 9 instead of 5"),
    ],
)
def test_the_latents_of_something_else_are_refused(folder: Path, codec: VideoCodec, change, message: str):
    with pytest.raises(StarflowError, match=message):
        open_cache(folder, codec, **change)


def test_those_of_another_autoencoder_and_another_version_are_refused(tmp_path: Path, codec: VideoCodec):
    open_cache(tmp_path, codec, ClipList([SOURCE[2]]))
    torch.manual_seed(1)
    with pytest.raises(StarflowError, match="made with another autoencoder"):
        open_cache(tmp_path, VideoCodec(tiny_vae()), ClipList([SOURCE[2]]))
    origin = json.loads((tmp_path / "cache.json").read_text())
    (tmp_path / "cache.json").write_text(json.dumps(origin | {"format": 3}))
    with pytest.raises(StarflowError, match="made with another version"):
        open_cache(tmp_path, codec, ClipList([SOURCE[2]]))


def test_the_same_autoencoder_elsewhere_or_with_another_decoder_is_the_same(
    folder: Path, codec: VideoCodec, tmp_path: Path
):
    codec.vae.save_pretrained(tmp_path)
    moved = AutoencoderKLWan.from_pretrained(tmp_path).eval()
    torch.nn.init.zeros_(moved.decoder.conv_in.weight)
    assert open_cache(folder, VideoCodec(moved)).clips == open_cache(folder, codec).clips


def test_a_damaged_shard_is_named(tmp_path: Path, codec: VideoCodec):
    open_cache(tmp_path, codec)
    shard = tmp_path / "clips-0000002.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(StarflowError, match=rf"{shard.name} is damaged"):
        open_cache(tmp_path, codec)
    shard.unlink()
    assert len(open_cache(tmp_path, codec).clips) == 3


@pytest.mark.parametrize("to", [ClipFormat(10, 8, 32, 32), ClipFormat(9, 8, 32, 40)])
def test_a_format_that_the_autoencoder_cannot_take_is_a_usage_error(tmp_path: Path, codec: VideoCodec, to: ClipFormat):
    with pytest.raises(UsageError):
        open_cache(tmp_path, codec, to=to)


def test_toyworld_is_a_source_like_others(tmp_path: Path, codec: VideoCodec):
    source = Toyworld(4, seed=7, paraphrases=2, long=0.25, edited=0.5)
    cache = open_cache(tmp_path, codec, source, ClipFormat(17, 8, 64, 64))
    assert [clip.num_latent_frames for clip in cache.clips] == [21, 5, 5, 5]
    assert [list(clip.instructions) for clip in cache.clips] == [[0], [0], [], []]
    assert cache.clips[3].captions == source[3].captions
    assert_encoded(cache.read(3, "clip"), codec, source[3].video)
