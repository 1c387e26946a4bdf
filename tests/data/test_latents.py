from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from starflow.data.latents import LatentCache, open_latent_cache, to_video_tensor
from starflow.data.source import Toyworld
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError
from tiny_pipeline import tiny_vae

SOURCE = Toyworld(seed=7, paraphrases=2)


@pytest.fixture(scope="module")
def codec() -> VideoCodec:
    torch.manual_seed(0)
    return VideoCodec(tiny_vae())


def open_cache(folder: Path, codec: VideoCodec, **changes) -> LatentCache:
    arguments = {"source": SOURCE, "codec": codec, "num_clips": 5, "num_edits": 3, "num_long_clips": 2} | changes
    return open_latent_cache(folder, **arguments, show_progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, codec: VideoCodec) -> Path:
    path = tmp_path_factory.mktemp("latents")
    open_cache(path, codec)
    return path


def test_holds_the_latents_and_captions_of_the_source(folder: Path, codec: VideoCodec):
    cache = open_cache(folder, codec)
    assert cache.clips.shape == (5, 5, 4, 4, 4)
    assert cache.last_images.shape == (5, 1, 4, 4, 4)
    assert cache.edits.shape == (3, 5, 4, 4, 4)
    assert cache.long_clips.shape == (2, 21, 4, 4, 4)
    torch.testing.assert_close(cache.long_clips[:, :5], cache.clips[:2], atol=2e-3, rtol=1e-2)
    for index in range(5):
        clip = SOURCE.clip(index)
        torch.testing.assert_close(cache.clips[index], codec.encode(to_video_tensor([clip.video]))[0].half())
        assert np.array_equal(cache.clip_cells[index], clip.cells)
        assert (cache.captions[index], cache.image_captions[index]) == (clip.captions, clip.image_captions)
    edit = SOURCE.edit(2)
    torch.testing.assert_close(cache.edits[2], codec.encode(to_video_tensor([edit.video]))[0].half())
    assert cache.instructions[2] == edit.instruction
    assert np.array_equal(cache.edit_cells[2], edit.cells)


def test_without_edits_and_long_clips(tmp_path: Path, codec: VideoCodec):
    cache = open_cache(tmp_path, codec, num_edits=0, num_long_clips=0)
    assert (len(cache.clips), len(cache.edits), len(cache.long_clips)) == (5, 0, 0)


def test_is_made_once(folder: Path, codec: VideoCodec, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(VideoCodec, "encode", lambda *_: pytest.fail("encoded again"))
    assert len(open_cache(folder, codec).clips) == 5


def test_another_autoencoder_or_source_is_refused(folder: Path, codec: VideoCodec):
    with pytest.raises(StarflowError, match="another VAE or other clips"):
        open_cache(folder, codec, source=Toyworld(seed=8, paraphrases=2))
    torch.manual_seed(1)
    with pytest.raises(StarflowError, match="another VAE or other clips"):
        open_cache(folder, VideoCodec(tiny_vae()))


def test_the_same_autoencoder_elsewhere_or_with_another_decoder_is_the_same(
    folder: Path, codec: VideoCodec, tmp_path: Path
):
    codec.vae.save_pretrained(tmp_path)
    moved = AutoencoderKLWan.from_pretrained(tmp_path).eval()
    torch.nn.init.zeros_(moved.decoder.conv_in.weight)
    assert torch.equal(open_cache(folder, VideoCodec(moved)).clips, open_cache(folder, codec).clips)


def test_a_damaged_shard_is_named(tmp_path: Path, codec: VideoCodec):
    open_cache(tmp_path, codec)
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(StarflowError, match=rf"{shard.name} is damaged"):
        open_cache(tmp_path, codec)
    shard.unlink()
    assert len(open_cache(tmp_path, codec).clips) == 5
