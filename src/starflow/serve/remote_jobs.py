"""The jobs for workers on other machines, which share no disk with the API.

An actor beside the API, the desk, has the database and the files. A worker has a folder of its own. `RemoteJobs` sends
the inputs there when a job is claimed, the growing video with each renewal, and the finished files at the end.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from starflow.media.files import atomic_write, remove
from starflow.serve.database import Job
from starflow.serve.job_files import FRAGMENTS, inputs_of
from starflow.serve.jobs import JobStore
from starflow.serve.settings import ServeSettings

Files = dict[str, bytes]  # by name


class Desk(JobStore):
    """The jobs with their files.

    Args:
        settings: of the server.
        folder: the working directory of the server, as paths may be relative to it.
    """

    def __init__(self, settings: ServeSettings, folder: str) -> None:
        os.chdir(folder)
        super().__init__(settings.database_url, settings.keep_seconds)
        self._settings = settings
        self._reports: list[tuple[str, dict[str, Any]]] = []

    def claim_with_inputs(self, worker: str, max_batch: int) -> list[tuple[Job, Files]]:
        """As `claim`, with the pictures and clips that are given."""
        claimed = []
        for job in self.claim(worker, max_batch):
            with suppress(FileNotFoundError):  # the job was deleted at this moment
                claimed.append((job, self._inputs(job)))
        return claimed

    def _inputs(self, job: Job) -> Files:
        return {path.name: path.read_bytes() for path in inputs_of(self._settings.folder(job.id))}

    def renew_with_growth(
        self, worker: str, job_ids: Sequence[str], progress: int, growth: Mapping[str, Mapping[str, tuple[int, bytes]]]
    ) -> dict[str, str]:
        """As `renew`, with what was added to the files of each job: their names, the first byte and the bytes."""
        held = self.renew(worker, job_ids, progress)
        for job_id in growth.keys() & held.keys():
            with suppress(FileNotFoundError):  # the job was deleted at this moment
                for name, (start, data) in growth[job_id].items():
                    _write_at(self._settings.folder(job_id) / name, start, data)
        return held

    def finish_with_files(
        self, worker: str, job_id: str, status: str, files: Files, kept: Collection[str], values: Mapping[str, Any]
    ) -> bool:
        """As `finish`, with the finished files. Other files than those named in `kept` are removed."""
        if not self.renew(worker, [job_id], progress=99):
            return False
        folder = self._settings.folder(job_id)
        for name, data in files.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(data)
        for path in folder.glob("*"):  # none, if the job was deleted at this moment
            if path.name not in kept:
                remove(path)
        return self.finish(worker, job_id, status, **values)

    def remove_if_cancelled(self, job_id: str) -> bool:
        """Whether a job was cancelled; if so, its files are removed."""
        if cancelled := self.is_cancelled(job_id):
            remove(self._settings.folder(job_id))
        return cancelled

    def report(self, worker: str, report: dict[str, Any]) -> None:
        """Keep the report of a worker for the API."""
        self._reports.append((worker, report))

    def take_reports(self) -> list[tuple[str, dict[str, Any]]]:
        """The reports since the last call, with the names of the workers."""
        reports, self._reports = self._reports, []
        return reports


def _write_at(path: Path, start: int, data: bytes) -> None:
    path.touch()
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


class RemoteJobs:
    """The jobs of the desk, for a worker: a `JobSource`.

    Args:
        desk: the actor of a `Desk`.
        settings: those of the server, with the worker's own `data_dir`.
    """

    def __init__(self, desk: ActorHandle, settings: ServeSettings) -> None:
        self._desk, self._settings = desk, settings
        self._sent: dict[Path, int] = {}  # how many bytes of each growing file

    def _ask(self, method: str, *args: Any) -> Any:
        return ray.get(getattr(self._desk, method).remote(*args))

    def claim(self, worker: str, max_batch: int = 1) -> list[Job]:
        """Take jobs, with their inputs. What is left of earlier jobs is removed."""
        remove(self._settings.folder(""))
        self._sent.clear()
        jobs = []
        for job, inputs in self._ask("claim_with_inputs", worker, max_batch):
            given = self._settings.folder(job.id) / "given"
            given.mkdir(parents=True)
            for name, data in inputs.items():
                (given / name).write_bytes(data)
            jobs.append(job)
        return jobs

    def renew(self, worker: str, job_ids: Sequence[str], progress: int) -> dict[str, str]:
        """As `JobStore.renew`; sends what the growing videos have grown by."""
        growth = {job_id: self._growth(job_id) for job_id in job_ids}
        held = self._ask("renew_with_growth", worker, job_ids, progress, growth)
        for job_id, files in growth.items():
            for name, (start, data) in files.items():
                self._sent[self._settings.folder(job_id) / name] = start + len(data)
        return held

    def _growth(self, job_id: str) -> dict[str, tuple[int, bytes]]:
        growth = {}
        for path in self._settings.folder(job_id).glob(FRAGMENTS):
            start = self._sent.get(path, 0)
            with path.open("rb") as file:
                file.seek(start)
                if data := file.read():
                    growth[path.name] = (start, data)
        return growth

    def finish(self, worker: str, job_id: str, status: str, **values: Any) -> bool:
        """As `JobStore.finish`; sends the finished files."""
        paths = [path for path in self._settings.folder(job_id).glob("*") if path.is_file()]
        files = {path.name: path.read_bytes() for path in paths if path not in self._sent}
        return self._ask("finish_with_files", worker, job_id, status, files, [path.name for path in paths], values)

    def is_cancelled(self, job_id: str) -> bool:
        """As `JobStore.is_cancelled`; the API's files of such a job are removed, too."""
        return self._ask("remove_if_cancelled", job_id)

    def make_alone(self, worker: str, job_ids: Sequence[str]) -> None:
        """As `JobStore.make_alone`."""
        self._ask("make_alone", worker, job_ids)

    def release(self, worker: str) -> None:
        """As `JobStore.release`."""
        self._ask("release", worker)

    def report_worker(self, name: str, peak_memory_bytes: int) -> None:
        """As `JobStore.report_worker`."""
        self._ask("report_worker", name, peak_memory_bytes)

    def remove_worker(self, name: str) -> None:
        """As `JobStore.remove_worker`."""
        self._ask("remove_worker", name)

    def report(self, worker: str, report: dict[str, Any]) -> None:
        """Report to the API."""
        self._ask("report", worker, report)
