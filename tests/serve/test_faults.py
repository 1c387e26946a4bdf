"""Processes are killed at bad moments; no job that was accepted is lost, and none is made twice."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from server_helpers import MANY_FRAMES, PROMPT, Client, clip_file, separate_server, serving, settings_for, until


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


def test_a_worker_that_has_lost_a_job_leaves_its_files_to_the_next(tiny_model: Path, tmp_path: Path):
    clip = clip_file(tmp_path / "clip.mp4").read_bytes()
    form = {"data": {"prompt": PROMPT, "num_frames": "401", "seed": "1"}, "files": {"extend_reference": clip}}
    with serving(settings_for(tiny_model, tmp_path / "data")) as client:
        lost, other = [client.post("/v1/videos", **form).json() for _ in range(2)]
        client.wait(lost, "in_progress")
        client.server.store.worker_died(client.server.store.get(lost["id"]).worker, "its lease has ended")
        assert [client.wait(video)["status"] for video in (lost, other)] == ["completed", "completed"]
        assert [client.server.store.get(video["id"]).attempts for video in (lost, other)] == [2, 1]
        contents = [client.get(f"/v1/videos/{video['id']}/content").content for video in (lost, other)]
        assert contents[0] == contents[1]  # both begin with what was given


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


@pytest.mark.slow
def test_nothing_accepted_is_lost_when_workers_and_servers_are_killed_50_times(tiny_model: Path, tmp_path: Path):
    settings = settings_for(tiny_model, tmp_path, workers=2, limits={"queued": 1000, "batch": 2})
    chance, accepted, kills = random.Random(0), {}, 0
    while kills < 50:
        with separate_server(settings) as (client, pid):
            for _ in range(chance.randint(1, 6)):
                for _ in range(chance.randint(1, 4)):
                    video = client.make(num_frames=chance.choice((1, 9, 41)))
                    accepted[video["id"]] = video
                time.sleep(chance.uniform(0, 0.5))
                if workers := worker_pids(client, pid):
                    with suppress(ProcessLookupError):  # one that was killed before
                        os.kill(chance.choice(workers), signal.SIGKILL)
                        kills += 1
            os.kill(pid, signal.SIGKILL)
            kills += 1
    with serving(settings) as client:
        ended = [client.wait(video) for video in accepted.values()]
        assert {video["status"] for video in ended} <= {"completed", "failed"}
        failed = [video for video in ended if video["status"] == "failed"]
        assert all(video["error"]["code"] == "worker_died" for video in failed)
        for video in ended:
            if video["status"] == "completed":
                assert client.get(f"/v1/videos/{video['id']}/content").status_code == 200
        assert client.server.store.count("queued") == client.server.store.count("in_progress") == 0
