from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import save_file

from clip_sources import ClipList, moving_noise, write_clip
from starflow.data import encoding, shards
from starflow.data.clip import Clip, ClipSource, Edit
from starflow.data.encoding import encode_source, open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.data.folder import ClipFolder
from starflow.data.latents import LatentCache
from starflow.data.mixture import SourceMixture
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError, UsageError
from starflow.media.frames import to_tensor
from starflow.toyworld.source import Toyworld
from tiny_game import TinyGame
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
    monkeypatch.setattr(encoding, "CLIPS_PER_SHARD", 2)


def open_cache(
    folder: Path, codec: VideoCodec, source: ClipSource = SOURCE, to: ClipFormat = FORMAT, **more
) -> LatentCache:
    return open_latent_cache(folder, source, codec, to, show_progress=False, **more)


def latents(cache: LatentCache, index: int, name: str = "clip", *more: int) -> torch.Tensor:
    """Latents of the first excerpt of a clip of the source."""
    return cache.read(next(clip for clip in cache.clips if clip.index == index), name, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, codec: VideoCodec) -> Path:
    path = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(encoding, "CLIPS_PER_SHARD", 2)
        open_cache(path, codec)
    return path


def assert_encoded(got: torch.Tensor, codec: VideoCodec, video) -> None:
    torch.testing.assert_close(got, codec.encode(to_tensor(video)[None])[0], atol=2e-3, rtol=1e-2)


def test_the_cache_holds_the_latents_and_captions_of_usable_clips(folder: Path, codec: VideoCodec):
    cache = open_cache(folder, codec)
    assert cache.num_latent_frames == 3
    assert [(clip.index, clip.num_latent_frames) for clip in cache.clips] == [(0, 3), (2, 1), (4, 8)]
    assert cache.clips[0].captions == ["zero", "none"]
    assert [clip.image_captions for clip in cache.clips] == [["picture of zero"], ["two"], ["four"]]
    assert [clip.instructions for clip in cache.clips] == [{}, {}, {0: "turn"}]
    assert_encoded(latents(cache, 0, "clip"), codec, SOURCE[0].video)
    assert_encoded(latents(cache, 0, "last"), codec, SOURCE[0].video[8:9])
    assert_encoded(latents(cache, 2, "clip"), codec, SOURCE[2].video)
    assert_encoded(latents(cache, 4, "clip"), codec, SOURCE[4].video[:29])
    assert_encoded(latents(cache, 4, "last"), codec, SOURCE[4].video[8:9])
    assert_encoded(latents(cache, 4, "edit.0"), codec, SOURCE[4].edits[0].video)


def test_an_excerpt_is_read_alone(folder: Path, codec: VideoCodec):
    cache = open_cache(folder, codec)
    assert torch.equal(latents(cache, 4, "clip", 2, 3), latents(cache, 4, "clip")[2:5])
    assert torch.equal(latents(cache, 4, "clip", 0, 3), latents(cache, 4, "clip")[:3])


def test_clips_that_are_left_out_are_named(tmp_path: Path, codec: VideoCodec, capsys: pytest.CaptureFixture[str]):
    assert open_cache(tmp_path, codec).left_out == LEFT_OUT
    assert (tmp_path / "left_out.txt").read_text().splitlines() == LEFT_OUT
    assert [line.removeprefix("left out: ") for line in capsys.readouterr().out.splitlines()] == LEFT_OUT


def test_a_long_list_of_clips_left_out_is_shortened(
    tmp_path: Path, codec: VideoCodec, capsys: pytest.CaptureFixture[str]
):
    open_cache(tmp_path, codec, ClipList([SOURCE[0], *[None] * 14]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == encoding.NAMED_ON_TERMINAL + 1
    assert lines[-1] == f"left out: 4 more, named in {tmp_path / 'left_out.txt'}"


def test_a_source_without_usable_clips_is_an_error(tmp_path: Path, codec: VideoCodec):
    with pytest.raises(StarflowError, match=r"no clip to train on: clip-0.mp4 is corrupt"):
        open_cache(tmp_path, codec, ClipList([None, None]))


def test_a_complete_cache_is_not_encoded_again(folder: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(VideoCodec, "encode", lambda *_: pytest.fail("encoded again"))
    assert len(open_cache(folder, codec).clips) == 3


class Encoder:
    """Counts the clips that are encoded, and can be interrupted at one of its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interrupted_at: int = 0) -> None:
        self.num_clips, self.calls, self.interrupted_at = 0, 0, interrupted_at
        encode = VideoCodec.encode

        def counted(codec: VideoCodec, video: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == self.interrupted_at:
                raise KeyboardInterrupt
            self.num_clips += len(video)
            return encode(codec, video)

        monkeypatch.setattr(VideoCodec, "encode", counted)


MANY = ClipList([Clip(moving_noise(9, seed=number), 8, [f"clip {number}"]) for number in range(6)])


@pytest.mark.parametrize("interrupted_at", range(1, 11))
def test_an_interrupted_cache_resumes_where_it_was(
    tmp_path: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
):
    monkeypatch.setattr(encoding, "BYTES_AT_ONCE", 1)  # every clip is encoded on its own, in two calls
    whole = open_cache(tmp_path / "whole", codec, MANY)
    with monkeypatch.context() as patch:
        Encoder(patch, interrupted_at)
        with pytest.raises(KeyboardInterrupt):
            open_cache(tmp_path / "cache", codec, MANY)
    encoder = Encoder(monkeypatch)
    resumed = open_cache(tmp_path / "cache", codec, MANY)
    assert encoder.num_clips == 12 - 2 * ((interrupted_at - 1) // 2)
    assert list(resumed.clips) == list(whole.clips)
    assert all(torch.equal(latents(resumed, index), latents(whole, index)) for index in range(6))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def test_a_changed_source_costs_what_is_new(
    tmp_path: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for index in range(3):
        write_clip(tmp_path / "clips" / f"{index}.mp4", f"clip {index}", 9, 32, 32, 8, seed=index)
    open_cache(tmp_path / "cache", codec, ClipFolder(str(tmp_path / "clips")))
    (tmp_path / "clips" / "1.mp4").unlink()
    (tmp_path / "clips" / "2.txt").write_text("another caption")
    write_clip(tmp_path / "clips" / "00.mp4", "a new clip", 9, 32, 32, 8, seed=4)
    capsys.readouterr()
    encoder = Encoder(monkeypatch)
    cache = open_cache(tmp_path / "cache", codec, ClipFolder(str(tmp_path / "clips")))
    assert encoder.num_clips == 4  # two clips and their last frames
    assert [clip.captions for clip in cache.clips] == [["clip 0"], ["a new clip"], ["another caption"]]
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'cache'} has latents of clips that are stale: 2 are not, or not as they are now, in the source. "
        "They are not used.",
        "2 of 3 clips are new or changed, and are encoded",
    ]


@pytest.mark.parametrize(
    ("to", "difference"),
    [
        (ClipFormat(9, 12, 32, 48), "with fps 8 instead of 12 and with width 32 instead of 48"),
        (ClipFormat(5, 8, 32, 32), "with num_frames 9 instead of 5"),
        (ClipFormat(9, 8, 32, 32, lengths=(5, 9)), "with lengths none instead of [5, 9]"),
        (ClipFormat(9, 8, 32, 32, frames="random"), "with frames head instead of random"),
    ],
)
def test_another_format_is_encoded_anew_and_the_old_one_stays(
    tmp_path: Path, codec: VideoCodec, to: ClipFormat, difference: str, monkeypatch, capsys
):
    source = ClipList([SOURCE[2], SOURCE[4]])
    before = open_cache(tmp_path, codec, source)
    capsys.readouterr()
    open_cache(tmp_path, codec, source, to)
    assert f"are stale: 2 were made {difference}. They are not used." in capsys.readouterr().out
    encoder = Encoder(monkeypatch)
    assert list(open_cache(tmp_path, codec, source).clips) == list(before.clips)
    assert encoder.num_clips == 0


def test_another_autoencoder_is_encoded_anew(tmp_path: Path, codec: VideoCodec, capsys: pytest.CaptureFixture[str]):
    source = ClipList([SOURCE[2]])
    before = latents(open_cache(tmp_path, codec, source), 0)
    torch.manual_seed(1)
    assert not torch.equal(latents(open_cache(tmp_path, VideoCodec(tiny_vae()), source), 0), before)
    assert "1 were made with another autoencoder" in capsys.readouterr().out
    assert torch.equal(latents(open_cache(tmp_path, codec, source), 0), before)


def test_latents_of_another_version_are_stale(tmp_path: Path, codec: VideoCodec, capsys: pytest.CaptureFixture[str]):
    save_file({"0.clip": torch.zeros(1)}, tmp_path / "clips-0000000.safetensors")
    assert len(open_cache(tmp_path, codec).clips) == 3
    assert "made by another version" in capsys.readouterr().out


def test_a_cache_is_valid_for_the_same_encoder_with_another_path_and_decoder(
    folder: Path, codec: VideoCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    codec.vae.save_pretrained(tmp_path)
    moved = AutoencoderKLWan.from_pretrained(tmp_path).eval()
    torch.nn.init.zeros_(moved.decoder.conv_in.weight)
    encoder = Encoder(monkeypatch)
    assert list(open_cache(folder, VideoCodec(moved)).clips) == list(open_cache(folder, codec).clips)
    assert encoder.num_clips == 0


def test_a_damaged_shard_is_named(tmp_path: Path, codec: VideoCodec):
    open_cache(tmp_path, codec)
    shard = sorted(tmp_path.glob("clips-*"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(StarflowError, match=rf"{shard.name} is damaged"):
        open_cache(tmp_path, codec)
    shard.unlink()
    assert len(open_cache(tmp_path, codec).clips) == 3


def test_a_full_disk_is_one_line(tmp_path: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(StarflowError, match=r"cannot write clips to .*: I/O error: No space left on device"):
        open_cache(tmp_path, codec)


def test_worker_processes_encode_the_same(tmp_path: Path, folder: Path, codec: VideoCodec):
    cache, expected = open_cache(tmp_path, codec, num_workers=2), open_cache(folder, codec)
    assert list(cache.clips) == list(expected.clips) and cache.left_out == LEFT_OUT
    assert torch.equal(latents(cache, 4), latents(expected, 4))


def test_ranks_share_the_work(tmp_path: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch):
    encoder = Encoder(monkeypatch)
    for rank, num_clips in ((1, 4), (0, 12)):  # shards of two clips: rank 1 has the second of three
        encode_source(tmp_path, MANY, codec, FORMAT, rank=rank, world_size=2, show_progress=False)
        assert encoder.num_clips == num_clips
    cache = open_cache(tmp_path, codec, MANY)
    assert encoder.num_clips == 12
    assert [clip.index for clip in cache.clips] == [0, 1, 2, 3, 4, 5]


def test_the_cache_holds_features_of_the_actions_of_latent_frames(tmp_path: Path, codec: VideoCodec):
    game = TinyGame(num_frames=13)
    cache = open_cache(tmp_path, codec, game)
    assert cache.action_space == game.action_space
    for index, clip in enumerate(cache.clips):
        assert clip.has_actions
        each = game.action_space.features(torch.from_numpy(game[index].actions))
        want = torch.stack([torch.zeros(3), *(each[start : start + 4].mean(dim=0) for start in (1, 5, 9))])
        assert torch.equal(cache.read(clip, "actions"), want)
        assert torch.equal(cache.read(clip, "actions", 1, 2), want[1:3])


def test_excerpts_of_a_clip_have_their_own_actions(tmp_path: Path, codec: VideoCodec):
    game = TinyGame(num_clips=1, num_frames=18)
    first, second = (cache := open_cache(tmp_path, codec, game, replace(FORMAT, frames="chunks"))).clips
    each = game.action_space.features(torch.from_numpy(game[0].actions))
    assert torch.equal(cache.read(first, "actions")[1], each[1:5].mean(dim=0))
    assert torch.equal(cache.read(second, "actions")[1], each[10:14].mean(dim=0))


def test_a_source_of_clips_with_and_without_actions(tmp_path: Path, codec: VideoCodec):
    sources = [{"source": "tiny_game:TinyGame", "num_clips": 1}, {"source": "toyworld", "num_clips": 1}]
    cache = open_cache(tmp_path, codec, SourceMixture(sources))
    assert cache.action_space == TinyGame.action_space
    assert [clip.has_actions for clip in cache.clips] == [True, False]


def test_clips_with_actions_are_not_resampled(tmp_path: Path, codec: VideoCodec):
    with pytest.raises(StarflowError, match="episode 0: a clip with actions is not resampled: set the rate to 16 fps"):
        open_cache(tmp_path, codec, TinyGame(fps=16, num_frames=30))


def test_actions_without_a_declared_space_are_an_error(tmp_path: Path, codec: VideoCodec):
    source = ClipList([replace(TinyGame()[0], name="a game")])
    with pytest.raises(StarflowError, match="a game has actions, but its source declares no action space"):
        open_cache(tmp_path, codec, source)


def test_chunks_of_a_clip_are_clips_of_the_cache(tmp_path: Path, codec: VideoCodec):
    video = moving_noise(30, seed=4)
    source = ClipList([Clip(video, 8, ["long"], name="long.mp4"), Clip(video[:4], 8, ["short"], name="short.mp4")])
    cache = open_cache(tmp_path, codec, source, ClipFormat(9, 8, 32, 32, lengths=(5, 9), frames="chunks"))
    assert [(clip.index, clip.bucket.num_frames) for clip in cache.clips] == [(0, 9), (0, 9), (0, 9)]
    for number, clip in enumerate(cache.clips):
        assert_encoded(cache.read(clip, "clip"), codec, video[9 * number :][:9])
    assert cache.left_out == ["short.mp4: has 4 frames at 8 fps, and the model's clips have 5"]


def test_clips_of_many_shapes_go_to_their_buckets(tmp_path: Path, codec: VideoCodec):
    shapes = [(9, 32, 64), (7, 64, 32), (5, 64, 64), (1, 32, 64)]
    clips = [Clip(moving_noise(f, h, w), 8 * (f > 1), ["a"]) for f, h, w in shapes]
    to = ClipFormat(9, 8, 48, 48, sizes=((48, 48), (32, 64), (64, 32)), lengths=(5, 9))
    cache = open_cache(tmp_path, codec, ClipList(clips), to)
    assert [clip.bucket for clip in cache.clips] == [(9, 32, 64), (5, 64, 32), (5, 48, 48), (1, 32, 64)]
    assert [tuple(cache.read(clip, "clip").shape[-2:]) for clip in cache.clips] == [(2, 4), (4, 2), (3, 3), (2, 4)]
    assert cache.read(cache.clips[1], "clip").shape[0] == 2


@pytest.mark.parametrize("to", [ClipFormat(10, 8, 32, 32), ClipFormat(9, 8, 32, 40)])
def test_a_format_that_the_autoencoder_cannot_encode_is_a_usage_error(
    tmp_path: Path, codec: VideoCodec, to: ClipFormat
):
    with pytest.raises(UsageError):
        open_cache(tmp_path, codec, to=to)


def test_clips_of_toyworld_are_cached(tmp_path: Path, codec: VideoCodec):
    source = Toyworld(4, seed=7, paraphrases=2, long=0.25, edited=0.5)
    cache = open_cache(tmp_path, codec, source, ClipFormat(17, 8, 64, 64))
    assert [clip.num_latent_frames for clip in cache.clips] == [21, 5, 5, 5]
    assert [list(clip.instructions) for clip in cache.clips] == [[0], [0], [], []]
    assert cache.clips[3].captions == source[3].captions
    assert_encoded(latents(cache, 3, "clip"), codec, source[3].video)
