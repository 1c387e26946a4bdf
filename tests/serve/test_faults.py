"""Processes are killed at bad moments; no job that was accepted is lost, and none is made twice."""

import io
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from PIL import Image

from postgresql_server import kill_connections
from server_helpers import MANY_FRAMES, PROMPT, Client, separate_server, serving, settings_for, until


def test_a_job_whose_worker_is_killed_is_made_again_once(tiny_model: Path, tmp_path: Path):
    with serving(settings_for(tiny_model, tmp_path)) as client:
        survivor = client.wait(client.make(num_frames=401), "in_progress")
        client.kill_worker()
        assert client.wait(survivor)["status"] == "completed"
        assert [each.name for each in (tmp_path / "videos" / survivor["id"]).glob("fragments*")] == []

        doomed = client.make(num_frames=MANY_FRAMES)
        following = client.make()
        for _ in range(2):
            client.wait(doomed, "in_progress")
            client.kill_worker()
        failed = client.wait(doomed)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "worker_died")
        assert "2 times" in failed["error"]["message"]
        assert "signal 9" in failed["error"]["message"]
        assert client.wait(following)["status"] == "completed"


def test_a_job_that_is_taken_from_a_slow_worker_keeps_what_was_given(client: Client):
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")

    def make(num_frames: int) -> dict:
        fields = {"prompt": PROMPT, "seed": "1", "num_frames": str(num_frames)}
        return client.post("/v1/videos", data=fields, files={"input_reference": picture.getvalue()}).json()

    video = client.wait(make(401), "in_progress")
    store = client.server.store
    store.worker_died(store.get(video["id"]).worker, "it did not answer")
    assert client.wait(video)["status"] == "completed"
    assert store.get(video["id"]).attempts == 2
    undisturbed = client.wait(make(401))
    first, second = (client.get(f"/v1/videos/{each['id']}/content").content for each in (video, undisturbed))
    assert first == second


@pytest.mark.slow
def test_videos_that_are_deleted_at_random_moments_leave_nothing_and_harm_no_worker(tiny_model: Path, tmp_path: Path):
    settings = settings_for(tiny_model, tmp_path, limits={"batch": 2})
    chance = random.Random(0)
    with serving(settings) as client, ThreadPoolExecutor(4) as pool:
        worker = client.server.supervisor.running[0]

        def make_and_delete(wait: float) -> int:
            video = client.make(num_frames=1)
            time.sleep(wait)
            return client.delete(f"/v1/videos/{video['id']}").status_code

        statuses = list(pool.map(make_and_delete, [chance.uniform(0, 1) for _ in range(100)]))
        assert statuses == [200] * 100
        until(lambda: not list(settings.folder("").iterdir()), 10)
        assert client.wait(client.make())["status"] == "completed"
        assert client.server.supervisor.running[0] is worker


def test_jobs_survive_an_orderly_stop(tiny_model: Path, tmp_path: Path):
    settings = settings_for(tiny_model, tmp_path)
    with serving(settings) as client:
        running = client.wait(client.make(num_frames=401), "in_progress")
        waiting = client.make()
    with serving(settings) as client:
        assert [client.wait(video)["status"] for video in (running, waiting)] == ["completed", "completed"]
        assert client.server.store.get(running["id"]).attempts == 1


def test_jobs_survive_a_killed_server_whose_workers_end_with_it(tiny_model: Path, tmp_path: Path):
    settings = settings_for(tiny_model, tmp_path)
    with separate_server(settings) as (client, pid):
        running = client.wait(client.make(num_frames=401), "in_progress")
        waiting = [client.make() for _ in range(3)]
        (worker,) = map(psutil.Process, worker_pids(client, pid))
        os.kill(pid, signal.SIGKILL)
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 10)
    with serving(settings) as client:
        assert [client.wait(video)["status"] for video in (running, *waiting)] == ["completed"] * 4


def worker_pids(client: Client, server_pid: int) -> list[int]:
    """The processes of a server's workers, from their names in the metrics: HOST-SERVER-WORKER."""
    lines = client.get("/metrics").text.splitlines()
    names = [line.split('"')[1] for line in lines if line.startswith("starflow_peak_memory_bytes{")]
    parts = [name.rsplit("-", 2) for name in names]
    return [int(worker) for _, server, worker in parts if int(server) == server_pid]


@pytest.mark.service
def test_two_servers_share_their_jobs(tiny_model: Path, tmp_path: Path, database: str):
    settings = settings_for(tiny_model, tmp_path, database=database)
    with serving(settings) as second:
        store = second.server.store
        with separate_server(settings) as (first, pid):
            until(lambda: second.get("/ready").json()["workers"] == 2)
            # Two that do not fit into a batch, so that each worker makes one.
            running = [second.make(num_frames=401), second.make(num_frames=405)]
            running = [second.wait(video, "in_progress") for video in running]
            assert len({store.get(video["id"]).worker for video in running}) == 2
            cancelled = first.make(num_frames=MANY_FRAMES)
            assert [first.wait(video)["status"] for video in running] == ["completed"] * 2
            first.wait(cancelled, "in_progress")
            second.post(f"/v1/videos/{cancelled['id']}/cancel")
            until(lambda: not settings.folder(cancelled["id"]).exists(), 5)
            blockers = [second.make(num_frames=frames) for frames in (401, 405)]
            blockers = [second.wait(video, "in_progress") for video in blockers]
            os.kill(pid, signal.SIGKILL)
        ended = [second.wait(video) for video in blockers]
        assert [video["status"] for video in ended] == ["completed"] * 2
        assert len({store.get(video["id"]).worker for video in ended}) == 1


def kill_a_worker(client: Client, server_pid: int, chance: random.Random) -> bool:
    """Kill one of a server's workers. Returns False if none lives."""
    pids = worker_pids(client, server_pid)
    for pid in chance.sample(pids, len(pids)):
        with suppress(ProcessLookupError):  # one that was killed before
            os.kill(pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_nothing_accepted_is_lost_when_processes_and_connections_are_killed_50_times(
    kind: str, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    database = request.getfixturevalue("database") if kind == "postgresql" else None
    limits = {"queued": 1000, "batch": 2}
    settings = settings_for(tiny_model, tmp_path, workers=2, database=database, limits=limits)
    chance, accepted, kills = random.Random(0), [], Counter()
    for _ in range(5):
        with separate_server(settings) as (client, pid):
            for _ in range(9):
                accepted += [client.make(num_frames=chance.choice((1, 9, 41))) for _ in range(chance.randint(1, 4))]
                time.sleep(chance.uniform(0, 1))
                if database is not None and chance.random() < 0.5:
                    until(lambda: kill_connections(database) > 0)
                    kills["connections"] += 1
                else:
                    until(partial(kill_a_worker, client, pid, chance))
                    kills["worker"] += 1
            os.kill(pid, signal.SIGKILL)
            kills["server"] += 1
    assert kills.total() == 50
    with serving(settings) as client:
        ended = [client.wait(video) for video in accepted]
        assert {video["status"] for video in ended} <= {"completed", "failed"}
        failed = [video for video in ended if video["status"] == "failed"]
        assert all(video["error"]["code"] == "worker_died" for video in failed)
        for video in ended:
            if video["status"] == "completed":
                assert client.get(f"/v1/videos/{video['id']}/content").status_code == 200
        assert client.server.store.count("queued") == client.server.store.count("in_progress") == 0
    print(
        f"killed {dict(kills)}: {len(ended) - len(failed)} completed, {len(failed)} failed, of {len(accepted)} accepted"
    )
