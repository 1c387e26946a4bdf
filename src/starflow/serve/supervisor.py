"""Starts the worker processes, starts them again when they die, and removes what is too old."""

import logging
import os
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Event, Thread

import torch
from sqlalchemy.exc import SQLAlchemyError

from starflow.hardware.placement import best_device
from starflow.media.files import remove
from starflow.serve.jobs import JobStore
from starflow.serve.metrics import Metrics
from starflow.serve.processes import CONTEXT
from starflow.serve.settings import ServeSettings
from starflow.serve.worker import run_worker

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_BETWEEN_RECOVERIES = 2.0
SECONDS_BETWEEN_CLEANINGS = 30.0
SECONDS_TO_STOP = 10.0
SECONDS_UNTIL_ADDED = 3600.0  # a folder without a job is older than this
LONGEST_PAUSE = 30.0  # before a worker that died is started again


@dataclass
class Running:
    """A worker process."""

    index: int
    name: str
    process: BaseProcess
    reports: Connection


class Supervisor:
    """Owns the workers of one API process. `start` and `stop` it."""

    def __init__(self, settings: ServeSettings, store: JobStore, metrics: Metrics) -> None:
        self.settings, self.store, self.metrics = settings, store, metrics
        self.running: list[Running] = []
        self.failure: str | None = None  # why no worker can start
        self._pauses = [0.0] * settings.workers
        self._start_at = dict.fromkeys(range(settings.workers), 0.0)  # of the workers that do not run
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers. Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the workers. What they have not finished is queued."""
        self._stopping.set()
        self._thread.join()
        for each in self.running:
            each.process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for each in self.running:
            each.process.join(max(0.0, deadline - time.monotonic()))
            if each.process.exitcode is None:
                each.process.kill()
                each.process.join()
            self.store.release(each.name)
            self.store.remove_worker(each.name)

    def _run(self) -> None:
        recovered_at = cleaned_at = 0.0
        while not self._stopping.is_set():
            try:
                self._look()
                if time.monotonic() - recovered_at > SECONDS_BETWEEN_RECOVERIES:
                    self._recover()
                    recovered_at = time.monotonic()
                if time.monotonic() - cleaned_at > SECONDS_BETWEEN_CLEANINGS:
                    self._clean_up()
                    cleaned_at = time.monotonic()
            except SQLAlchemyError:
                logger.exception("the database does not answer")
            self._stopping.wait(SECONDS_BETWEEN_LOOKS)

    def _look(self) -> None:
        for each in list(self.running):
            self._read(each)
            if each.process.exitcode is not None:
                self._bury(each)
        for index, moment in list(self._start_at.items()):
            if time.monotonic() >= moment:
                self._start(index)

    def _recover(self) -> None:
        """Queue the jobs of workers that stopped answering, of this server or of another."""
        for _ in self.store.recover():
            self.metrics.count("failed")

    def _start(self, index: int) -> None:
        server = f"{socket.gethostname()}-{os.getpid()}"
        receiver, sender = CONTEXT.Pipe(duplex=False)
        arguments = (self.settings, server, device_of(self.settings.device, index), sender)
        process = CONTEXT.Process(target=run_worker, args=arguments, daemon=True)
        process.start()
        sender.close()
        del self._start_at[index]
        self.running.append(Running(index, f"{server}-{process.pid}", process, receiver))

    def _read(self, worker: Running) -> None:
        """Count what a worker has finished."""
        try:
            while worker.reports.poll():
                report = worker.reports.recv()
                if "cannot_start" in report:
                    self.failure = report["cannot_start"]
                    logger.error(self.failure, extra={"worker": worker.name})
                else:
                    self.failure, self._pauses[worker.index] = None, 0.0
                    self.metrics.finished(report)
        except (EOFError, OSError):  # it has ended
            pass

    def _bury(self, worker: Running) -> None:
        """Queue the jobs of a worker that died, and let another take its place: at once, but later if it dies again."""
        code = worker.process.exitcode or 0
        reason = f"signal {-code}" if code < 0 else f"exit status {code}"
        logger.error("a worker died: %s", reason, extra={"worker": worker.name})
        for _ in self.store.worker_died(worker.name, reason):
            self.metrics.count("failed")
        self.store.remove_worker(worker.name)
        self.running.remove(worker)
        worker.reports.close()
        pause = self._pauses[worker.index]
        self._start_at[worker.index] = time.monotonic() + pause
        self._pauses[worker.index] = min(LONGEST_PAUSE, max(0.5, 2 * pause))

    def _clean_up(self) -> None:
        """Remove finished videos past their time or space, and folders that no job owns."""
        expired = self.store.expired(self.settings.keep_bytes)
        self.store.remove(expired)
        for job_id in expired:
            remove(self.settings.folder(job_id))
        before = time.time() - SECONDS_UNTIL_ADDED
        folders = {path.name: path for path in self.settings.folder("").glob("*") if path.stat().st_mtime < before}
        for job_id in folders.keys() - self.store.existing(folders):
            remove(folders[job_id])


def device_of(name: str | None, index: int) -> str:
    """The device of a worker: each has its own GPU."""
    name = name or best_device()
    return f"cuda:{index % max(1, torch.cuda.device_count())}" if name == "cuda" else name
