"""Shards in an S3 store on the loopback interface."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer

from clip_sources import write_clip
from processes import run_processes
from shared_work import encode_from_store
from starflow.cli.main import run
from starflow.data import encoding
from starflow.data.encoding import open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.data.loader import ClipLoader
from starflow.data.webdataset import WebDataset
from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from tar_shards import shard
from tiny_pipeline import tiny_pipeline, tiny_vae

BUCKET = "clips"
SHARDS = f"s3://{BUCKET}/train/{{000..001}}.tar"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedMotoServer]:
    """A store with two shards of three clips. The variables are those that users of S3 set."""
    folder = tmp_path_factory.mktemp("clips")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for variable, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(variable, value)
        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem()
        store.mkdir(BUCKET)
        for number in range(2):
            store.pipe(f"{BUCKET}/train/{number:03d}.tar", shard(clips(folder, number)))
        yield server
        server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def clips(folder: Path, number: int) -> dict[str, bytes]:
    """The files of a shard. The folder gets a copy of it."""
    files = {}
    for index in range(3):
        write_clip(folder / "clip.mp4", "", 9, 32, 32, 8, seed=3 * number + index)
        files[f"{index}.mp4"] = (folder / "clip.mp4").read_bytes()
        files[f"{index}.txt"] = f"{number}.{index}".encode()
    return files


@pytest.fixture
def on_disk(tmp_path: Path) -> WebDataset:
    """The same shards as files."""
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(shard(clips(tmp_path, number)))
    return WebDataset(str(tmp_path / "{0..1}.tar"))


@pytest.mark.usefixtures("server")
def test_latents_and_batches_of_a_store_are_those_of_files(on_disk: WebDataset, tmp_path: Path):
    in_store = WebDataset(f"s3://{BUCKET}/train/*.tar")
    names = [f"{number}.{index}" for number in range(2) for index in range(3)]
    assert [member.captions for member in in_store.members] == [[name] for name in names]
    assert list(WebDataset(SHARDS).members) == list(in_store.members)
    codec, to = VideoCodec(tiny_vae()), ClipFormat(9, 8, 32, 32)
    caches = [
        open_latent_cache(tmp_path / str(number), source, codec, to, show_progress=False)
        for number, source in enumerate((in_store, on_disk))
    ]
    for one, other in zip(*(cache.clips for cache in caches), strict=True):
        assert torch.equal(caches[0].read(one, "clip"), caches[1].read(other, "clip"))
    size = {"fps": 8, "height": 32, "width": 32}
    batches = [ClipLoader(source, range(6), **size).excerpts(0, 8, 5) for source in (in_store, on_disk)]
    assert torch.equal(*batches)


def test_a_dead_store_is_one_line_and_two_processes_go_on(
    server: ThreadedMotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    latents = tmp_path / "latents"
    arguments = [SHARDS, "-o", str(latents), "--model", str(tmp_path / "model"), "--device", "cpu", "--workers", "0"]
    monkeypatch.setattr(encoding, "CLIPS_PER_SHARD", 2)
    with monkeypatch.context() as patch:
        write = encoding.write_shard

        def write_and_stop(*given: object) -> None:
            write(*given)
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            s3fs.S3FileSystem.clear_instance_cache()

        patch.setattr(encoding, "write_shard", write_and_stop)
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        assert run(["data", "encode", *arguments]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert re.search(r"the store does not answer for s3://clips/train/00\d.tar: Could not connect", line)
    (written,) = latents.glob("clips-*")
    s3fs.S3FileSystem.clear_instance_cache()

    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert run_processes(2, encode_from_store, environment, *arguments, log=tmp_path) == [0, 0]
    assert written in (shards := list(latents.glob("clips-*"))) and len(shards) == 3
    monkeypatch.setattr(VideoCodec, "encode", lambda *_: pytest.fail("encoded again"))
    assert run(["data", "encode", *arguments]) == 0


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "shards", ["s3://nowhere/000.tar", "s3://nowhere/*.tar", f"s3://{BUCKET}/train/002.tar", f"s3://{BUCKET}/a/*.tar"]
)
def test_a_missing_bucket_or_shard_is_a_usage_error(shards: str):
    with pytest.raises(UsageError, match=re.escape(f"no shard at {shards}")):
        WebDataset(shards)
