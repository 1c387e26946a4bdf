"""The desk and its workers, in one process, without Ray: what they send is pickled on the way."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server_helpers import settings_for
from starflow.media.files import remove
from starflow.serve.database import Job
from starflow.serve.jobs import new_id

pytest.importorskip("ray", reason="ray is not installed")
from starflow.serve.remote_jobs import Desk, RemoteJobs

WORKER = "host-1-a"


class Call:
    """A method of an actor."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def remote(self, *args: Any) -> Any:
        return pickle.loads(pickle.dumps(self.method(*pickle.loads(pickle.dumps(args)))))


class Handle:
    """Stands for the handle of the desk's actor."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def __getattr__(self, name: str) -> Call:
        return Call(getattr(self.desk, name))


class Sides:
    """A job of the desk, and a worker with a folder of its own."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        here = settings_for(folder, folder / "api")
        there = settings_for(folder, folder / "worker")
        here.folder("").mkdir(parents=True)
        self.desk = Desk(here, str(Path.cwd()))
        self.remote = RemoteJobs(Handle(self.desk), there)
        values = {"id": new_id(), "kind": "video", "prompt": "a", "owner": "", "settings": settings}
        self.id = self.desk.add(Job(**values), 10).id
        self.here, self.there = here.folder(self.id), there.folder(self.id)
        (self.here / "given").mkdir(parents=True)
        (self.here / "given" / "image.safetensors").write_bytes(b"picture")


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sides:
    monkeypatch.setattr("starflow.serve.remote_jobs.ray.get", lambda value: value)
    return Sides(tmp_path)


def test_a_claim_brings_the_inputs_and_removes_what_is_left_of_earlier_jobs(sides: Sides):
    old = sides.there.parent / "old"
    old.mkdir(parents=True)
    (job,) = sides.remote.claim(WORKER)
    assert job.id == sides.id
    assert (sides.there / "given" / "image.safetensors").read_bytes() == b"picture"
    assert not old.exists()
    assert sides.remote.claim(WORKER) == []


def test_each_renewal_sends_what_a_video_has_grown_by(sides: Sides):
    sides.remote.claim(WORKER)
    grown = sides.there / "fragments-1.mp4"
    for size in (0, 3, 3, 8):
        grown.write_bytes(b"fragment"[:size])
        assert sides.remote.renew(WORKER, [sides.id], 50) == {sides.id: "a"}
        assert (sides.here / grown.name).exists() == (size > 0)
        if size:
            assert (sides.here / grown.name).read_bytes() == b"fragment"[:size]
    assert sides.desk.get(sides.id).progress == 50


def test_the_finished_files_replace_all_others(sides: Sides):
    sides.remote.claim(WORKER)
    (sides.there / "fragments-1.mp4").write_bytes(b"fragment")
    sides.remote.renew(WORKER, [sides.id], 99)
    (sides.there / "fragments-1.mp4").unlink()
    (sides.there / "video.mp4").write_bytes(b"video")
    assert sides.remote.finish(WORKER, sides.id, "completed", size_bytes=5)
    assert {path.name: path.read_bytes() for path in sides.here.iterdir()} == {"video.mp4": b"video"}
    ended = sides.desk.get(sides.id)
    assert (ended.status, ended.size_bytes) == ("completed", 5)
    assert not sides.remote.finish(WORKER, sides.id, "completed")
    assert not sides.remote.is_cancelled(sides.id)


def test_fragments_that_a_session_still_needs_stay(sides: Sides):
    sides.remote.claim(WORKER)
    (sides.there / "fragments-1.mp4").write_bytes(b"fragment")
    sides.remote.renew(WORKER, [sides.id], 99)
    (sides.there / "video.mp4").write_bytes(b"video")
    assert sides.remote.finish(WORKER, sides.id, "completed")
    assert sorted(path.name for path in sides.here.glob("*.mp4")) == ["fragments-1.mp4", "video.mp4"]


def test_a_cancelled_job_leaves_no_files(sides: Sides):
    sides.remote.claim(WORKER)
    sides.desk.cancel(sides.id)
    (sides.there / "fragments-1.mp4").write_bytes(b"fragment")
    (sides.there / "video.mp4").write_bytes(b"video")
    assert sides.remote.renew(WORKER, [sides.id], 50) == {}
    assert not sides.remote.finish(WORKER, sides.id, "completed")
    assert [path.name for path in sides.here.iterdir()] == ["given"]
    assert sides.remote.is_cancelled(sides.id)
    assert not sides.here.exists()


def test_a_job_that_another_worker_makes_keeps_its_files(sides: Sides):
    sides.remote.claim(WORKER)
    sides.desk.worker_died(WORKER, "the machine is gone")
    (again,) = sides.desk.claim("other")
    assert again.id == sides.id
    (sides.there / "fragments-1.mp4").write_bytes(b"fragment")
    assert sides.remote.renew(WORKER, [sides.id], 50) == {}
    assert not sides.remote.finish(WORKER, sides.id, "completed")
    assert not sides.remote.is_cancelled(sides.id)
    assert [path.name for path in sides.here.rglob("*.*")] == ["image.safetensors"]


def test_the_growth_of_a_job_that_is_deleted_at_this_moment_is_dropped(sides: Sides):
    sides.remote.claim(WORKER)
    (sides.here / "given" / "image.safetensors").unlink()
    (sides.here / "given").rmdir()
    sides.here.rmdir()
    (sides.there / "fragments-1.mp4").write_bytes(b"fragment")
    assert sides.remote.renew(WORKER, [sides.id], 50) == {sides.id: "a"}
    assert not sides.here.exists()


def test_a_job_that_is_deleted_while_it_is_claimed_is_left_out(sides: Sides):
    picture = sides.here / "given" / "image.safetensors"
    picture.unlink()
    picture.symlink_to("nowhere")  # as a file that is removed between a list and a look
    assert sides.remote.claim(WORKER) == []


def test_a_job_that_is_deleted_while_it_fails_does_no_harm(sides: Sides):
    sides.remote.claim(WORKER)
    remove(sides.here)
    assert sides.remote.finish(WORKER, sides.id, "failed")
    assert not sides.here.exists()


def test_reports_are_taken_once(sides: Sides):
    sides.remote.report(WORKER, {"finished_reason": "completed"})
    assert sides.desk.take_reports() == [(WORKER, {"finished_reason": "completed"})]
    assert sides.desk.take_reports() == []
