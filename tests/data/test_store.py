"""Shards in an S3 store on loopback. Needs s3fs and moto, which the extras do not install."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clip_sources import write_clip
from starflow.data.encoding import open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.data.loader import ClipLoader
from starflow.data.webdataset import WebDataset
from starflow.encoders.video import VideoCodec
from tar_shards import shard
from tiny_pipeline import tiny_vae

pytestmark = pytest.mark.service
needs_s3 = "needs s3fs, moto[s3], flask and flask-cors: botocore wants an older python-dateutil than matplotlib"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Two shards of three clips in a bucket."""
    s3fs = pytest.importorskip("s3fs", reason=needs_s3)
    server = pytest.importorskip("moto.server", reason=needs_s3).ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for variable, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(variable, value)
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    name = f"clips-{tmp_path.name.replace('_', '-')}"[:60].rstrip("-")
    store.mkdir(name)
    for number in range(2):
        files = {}
        for index in range(3):
            write_clip(tmp_path / "clip.mp4", "", 9, 32, 32, 8, seed=3 * number + index)
            files |= {
                f"{index}.mp4": (tmp_path / "clip.mp4").read_bytes(),
                f"{index}.txt": f"{number}.{index}".encode(),
            }
        store.pipe(f"{name}/{number}.tar", shard(files))
        (tmp_path / f"{number}.tar").write_bytes(shard(files))
    yield f"s3://{name}/*.tar"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_latents_and_batches_of_a_store_are_those_of_files(bucket: str, tmp_path: Path):
    in_store, on_disk = WebDataset(bucket), WebDataset(str(tmp_path / "{0..1}.tar"))
    assert [list(member.captions) for member in in_store.members] == [
        [f"{number}.{index}"] for number in range(2) for index in range(3)
    ]
    codec, to = VideoCodec(tiny_vae()), ClipFormat(9, 8, 32, 32)
    caches = [
        open_latent_cache(tmp_path / str(number), source, codec, to, show_progress=False)
        for number, source in enumerate((in_store, on_disk))
    ]
    for clip in caches[0].clips:
        assert torch.equal(caches[0].read(clip, "clip"), caches[1].read(caches[1].clips[clip.index], "clip"))
    batches = [
        ClipLoader(source, range(6), fps=8, height=32, width=32).excerpts(0, 8, 5) for source in (in_store, on_disk)
    ]
    assert torch.equal(*batches)


def test_a_dead_store_ends_encoding_and_loses_nothing(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, codec, to = WebDataset(bucket), VideoCodec(tiny_vae()), ClipFormat(9, 8, 32, 32)
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    s3fs = pytest.importorskip("s3fs", reason=needs_s3)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        s3fs.S3FileSystem.clear_instance_cache()
        patch.setattr(s3fs.S3FileSystem, "retries", 0)
        with pytest.raises(OSError, match=r"the store does not answer for s3://clips-.*/0\.tar"):
            open_latent_cache(tmp_path / "cache", source, codec, to, show_progress=False)
    assert os.environ["AWS_ENDPOINT_URL"] == endpoint
    s3fs.S3FileSystem.clear_instance_cache()
    assert len(open_latent_cache(tmp_path / "cache", source, codec, to, show_progress=False).clips) == 6
