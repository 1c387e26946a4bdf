"""How many workers there are, with workers that do nothing."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from server_helpers import settings_for, until
from starflow.errors import UsageError
from starflow.serve import supervisor as supervisor_module
from starflow.serve.database import Job
from starflow.serve.jobs import JobStore, new_id
from starflow.serve.metrics import Metrics
from starflow.serve.supervisor import Supervisor


class FakeWorker:
    def __init__(self, name: str) -> None:
        self.name, self.reason = name, None

    def reports(self) -> Iterator[dict[str, Any]]:
        yield from ()

    def end(self) -> str | None:
        return self.reason

    def stop(self) -> None:
        self.reason = "it was stopped"

    kill = stop


class FakePool:
    def __init__(self) -> None:
        self.started: list[FakeWorker] = []
        self.is_closed = False

    def start(self, index: int) -> FakeWorker:
        self.started.append(FakeWorker(f"worker-{len(self.started)}"))
        return self.started[-1]

    def close(self) -> None:
        self.is_closed = True


class Scene:
    """A supervisor of one to three workers, which make two jobs at once."""

    def __init__(self, folder: Path) -> None:
        settings = settings_for(folder, folder, workers=1, max_workers=3, limits={"batch": 2})
        self.store, self.pool = JobStore(settings.database_url, 100.0), FakePool()
        self.supervisor = Supervisor(settings, self.store, Metrics(), self.pool)

    def add(self, count: int) -> None:
        for _ in range(count):
            self.store.add(Job(id=new_id(), kind="video", prompt="a", settings={}, owner=""), 100)

    def names(self) -> list[str]:
        return sorted(worker.name for worker in self.supervisor.running.values())

    def until_running(self, *names: str) -> None:
        until(lambda: self.names() == sorted(names), 10)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(supervisor_module, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(supervisor_module, "SECONDS_TO_KEEP_IDLE", 0.05)
    scene = Scene(tmp_path)
    scene.supervisor.start()
    scene.until_running("worker-0")
    yield scene
    scene.supervisor.stop()
    assert scene.pool.is_closed
    scene.store.close()


def test_workers_are_started_while_jobs_wait_and_stopped_when_they_have_none(scene: Scene):
    scene.add(3)  # one batch and a half
    scene.until_running("worker-0", "worker-1")
    (job,) = scene.store.claim("worker-1")
    scene.add(20)
    scene.until_running("worker-0", "worker-1", "worker-2")  # and no more
    while scene.store.claim("worker-1"):
        pass
    scene.until_running("worker-1")  # the one that has jobs
    for held in scene.store.page("", None, 100, newest_first=False, kind="video"):
        scene.store.finish("worker-1", held.id, "completed")
    scene.add(5)
    scene.until_running("worker-1", "worker-3", "worker-4")
    assert scene.store.get(job.id).status == "completed"


def test_a_worker_that_dies_is_replaced_and_its_job_is_made_again(scene: Scene):
    scene.add(1)
    scene.store.claim("worker-0")
    scene.pool.started[0].reason = "signal 9"
    scene.until_running("worker-1")
    assert scene.store.count("queued") == 1


def test_the_supervisor_goes_on_after_an_error(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    failed = Event()

    def fail() -> list[str]:
        failed.set()
        raise OSError("the disk failed")

    monkeypatch.setattr(supervisor_module, "SECONDS_BETWEEN_RECOVERIES", 0.0)
    monkeypatch.setattr(scene.store, "recover", fail)
    assert failed.wait(10)
    scene.pool.started[0].reason = "signal 9"
    scene.until_running("worker-1")


def test_videos_past_their_space_and_old_folders_without_a_job_are_removed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    settings = scene.supervisor.settings
    scene.add(3)
    older, newer, running = (scene.store.claim("worker-0")[0].id for _ in range(3))
    for number, job_id in enumerate((older, newer)):
        size = settings.keep_bytes  # there is space for one of them
        scene.store.finish("worker-0", job_id, "completed", size_bytes=size, completed_at=1000.0 + number)
    folders = {name: settings.folder(name) for name in (older, newer, running, "video_lost", "video_new")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "video.mp4").touch()
        if name != "video_new":  # which is about to be added
            os.utime(folder, (1000, 1000))
    settings.folder("video_gone").symlink_to("nowhere")  # as a folder that is deleted between a list and a look
    monkeypatch.setattr(supervisor_module, "SECONDS_BETWEEN_CLEANINGS", 0.0)
    left = {newer, running, "video_new"}
    until(lambda: {name for name, folder in folders.items() if folder.exists()} == left, 10)
    assert scene.store.existing([older, newer, running]) == {newer, running}


def test_the_bounds_must_agree(tmp_path: Path):
    with pytest.raises(UsageError, match="at least 3 and at most 2 workers"):
        settings_for(tmp_path, tmp_path, workers=3, max_workers=2)
