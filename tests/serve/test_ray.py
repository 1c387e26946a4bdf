"""Workers on a Ray cluster of two nodes, which share this machine and its loopback interface."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from postgresql_server import kill_connections
from server_helpers import MANY_FRAMES, PROMPT, Client, clip_file, separate_server, serving, settings_for, until
from starflow.media.video import read_video
from starflow.serve import supervisor as supervisor_module
from starflow.serve.jobs import JobStore

pytestmark = pytest.mark.service

SECONDS = 400  # a worker of Ray takes its time to start on a busy machine
FRAMES = 201
NUM_JOBS = 6
NODE = {"num_cpus": 1, "object_store_memory": 2**27, "node_ip_address": "127.0.0.1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose head has room for one worker. Its files are in a folder with a short name, as sockets need."""
    pytest.importorskip("ray", reason="ray is not installed")
    with tempfile.TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def ray_client(cluster: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server with one or two workers, which make one job at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor_module, "SECONDS_TO_KEEP_IDLE", 2.0)
        data = tmp_path_factory.mktemp("data")
        settings = settings_for(tiny_model, data, ray=cluster.address, max_workers=2, limits={"batch": 1})
        with serving(settings, SECONDS) as client:
            yield client


def workers() -> list[psutil.Process]:
    """The processes of the workers, below those of the nodes, which this process has started."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if "ray::WorkerActor" in "".join(process.cmdline())]


def files_of(client: Client, video: dict[str, Any]) -> list[str]:
    folder = client.server.settings.folder(video["id"])
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def local_client(tiny_model: Path, tmp_path: Path) -> Iterator[Client]:
    with serving(settings_for(tiny_model, tmp_path / "local"), SECONDS) as client:
        yield client


def test_a_video_is_the_one_that_a_local_worker_makes(ray_client: Client, local_client: Client, tmp_path: Path):
    clip = clip_file(tmp_path / "clip.mp4", 9).read_bytes()
    form = {"data": {"prompt": PROMPT, "num_frames": "17", "seed": "1"}, "files": {"extend_reference": clip}}
    frames = []
    for each in (ray_client, local_client):
        video = each.wait(each.post("/v1/videos", **form).json())
        assert (video["status"], video["progress"]) == ("completed", 100)
        assert files_of(each, video) == ["spritesheet.jpg", "thumbnail.webp", "video.mp4"]
        made = tmp_path / "made.mp4"
        made.write_bytes(each.get(f"/v1/videos/{video['id']}/content").content)
        frames.append(read_video(made)[0].astype(int))
    assert len(frames[0]) == 17
    np.testing.assert_allclose(*frames, atol=2)


def test_a_running_video_streams_to_its_last_frame(ray_client: Client):
    video = ray_client.wait(ray_client.make(num_frames=FRAMES), "in_progress")
    with ray_client.stream("GET", f"/v1/videos/{video['id']}/content") as response:
        sizes_at_states, streamed = {}, b""
        for chunk in response.iter_bytes():
            streamed += chunk
            sizes_at_states.setdefault(ray_client.get(f"/v1/videos/{video['id']}").json()["status"], len(streamed))
    assert "in_progress" in sizes_at_states  # there was something to see before the end
    assert streamed.count(b"moof") == FRAMES
    assert ray_client.wait(video)["status"] == "completed"


def test_a_cancelled_video_is_gone_within_two_seconds(ray_client: Client):
    video = ray_client.wait(ray_client.make(num_frames=MANY_FRAMES), "in_progress")
    until(lambda: files_of(ray_client, video) == ["fragments-1.mp4"], SECONDS)
    ray_client.post(f"/v1/videos/{video['id']}/cancel")
    until(lambda: files_of(ray_client, video) == [], 2)
    assert ray_client.wait(ray_client.make())["status"] == "completed"


def test_a_clip_is_scored(ray_client: Client, tmp_path: Path):
    clip = clip_file(tmp_path / "clip.mp4", 9)
    files = {"video": clip.read_bytes()}
    response = ray_client.post("/v1/videos/score", data={"prompt": "a"}, files=files)
    assert np.isfinite(response.json()["scores"][0]["log_likelihood"])


def test_a_job_whose_worker_is_killed_twice_fails_with_the_reason(ray_client: Client):
    video = ray_client.make(num_frames=MANY_FRAMES)
    for attempt in (1, 2):
        until(lambda: ray_client.server.store.get(video["id"]).attempts == attempt, SECONDS)  # noqa: B023
        for process in workers():
            process.kill()
    failed = ray_client.wait(video)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "worker_died")
    assert failed["error"]["message"].startswith("the worker process died 2 times while it made this: The actor")
    assert ray_client.wait(ray_client.make())["status"] == "completed"


def test_every_job_ends_once_although_a_node_is_killed_under_load(ray_client: Client, cluster: Any):
    store, running = ray_client.server.store, ray_client.server.supervisor.running
    count = completed(ray_client)
    node = cluster.add_node(**NODE)
    first = ray_client.wait(ray_client.make(num_frames=MANY_FRAMES), "in_progress")  # on the head
    videos = [ray_client.make(num_frames=FRAMES) for _ in range(NUM_JOBS)]
    until(lambda: len(store.busy_workers()) == 2, SECONDS)  # scaled up
    begun = [video["id"] for video in videos if store.get(video["id"]).status == "in_progress"]
    lost = [process for process in workers() if process.parent().pid == raylet_of(node)]
    assert len(begun) == len(lost) == 1
    for process in (psutil.Process(raylet_of(node)), *lost):
        process.kill()
    cluster.remove_node(node, allow_graceful=False)
    ray_client.post(f"/v1/videos/{first['id']}/cancel")

    ended = [ray_client.wait(video) for video in videos]
    assert [video["status"] for video in ended] == ["completed"] * NUM_JOBS
    assert [video["id"] for video in videos if store.get(video["id"]).attempts == 2] == begun
    until(lambda: completed(ray_client) == count + NUM_JOBS, 10)  # none was made twice
    for video in ended:
        assert files_of(ray_client, video) == ["spritesheet.jpg", "thumbnail.webp", "video.mp4"]
    until(lambda: len(running) == 1, SECONDS)  # scaled down


def test_a_server_on_the_cluster_may_have_its_jobs_in_postgresql(
    cluster: Any, tiny_model: Path, tmp_path: Path, database: str
):
    node = cluster.add_node(**NODE)  # the other server of these tests has the head
    settings = settings_for(tiny_model, tmp_path, ray=cluster.address, database=database)
    with separate_server(settings, SECONDS) as (client, _):
        video = client.wait(client.make(num_frames=FRAMES), "in_progress")
        assert kill_connections(database) > 0
        assert client.wait(video)["status"] == "completed"
        assert client.get(f"/v1/videos/{video['id']}/content").status_code == 200
    with closing(JobStore(database, keep_seconds=1)) as store:
        assert store.get(video["id"]).attempts == 1
    cluster.remove_node(node)


def completed(client: Client) -> float:
    """How many jobs were completed, as the metrics count."""
    start = 'starflow_requests_success_total{finished_reason="completed"}'
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith(start)]
    return float(line.split()[-1])


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid
