"""Starts workers as they are needed, starts them again when they die, and removes what is too old."""

import logging
import math
import time
from pathlib import Path
from threading import Event, Thread

from starflow.media.files import remove
from starflow.serve.jobs import JobStore
from starflow.serve.metrics import Metrics
from starflow.serve.pool import RunningWorker, WorkerPool
from starflow.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_BETWEEN_RECOVERIES = 2.0
SECONDS_BETWEEN_CLEANINGS = 30.0
SECONDS_TO_STOP = 10.0
SECONDS_TO_KEEP_IDLE = 300.0  # before workers are stopped that have nothing to do
SECONDS_UNTIL_ADDED = 3600.0  # a folder without a job is older than this
LONGEST_PAUSE = 30.0  # before a worker that died is started again


class Supervisor:
    """Owns the workers of one API process. `start` and `stop` it."""

    def __init__(self, settings: ServeSettings, store: JobStore, metrics: Metrics, pool: WorkerPool) -> None:
        self.settings, self.store, self.metrics = settings, store, metrics
        self.running: dict[int, RunningWorker] = {}  # by number, from 0
        self.failure: str | None = None  # why no worker can start
        self._pool = pool
        self._least, self._most = settings.workers, settings.max_workers or settings.workers
        self._stopped: set[int] = set()  # those that are asked to end
        self._needed_at = 0.0  # the last time when no worker was too many
        self._pauses = [0.0] * self._most
        self._start_at = [0.0] * self._most
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers. Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the workers. What they have not finished is queued."""
        self._stopping.set()
        self._thread.join()
        for worker in self.running.values():
            worker.stop()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for worker in self.running.values():
            while worker.end() is None and time.monotonic() < deadline:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            if worker.end() is None:
                worker.kill()
            self.store.release(worker.name)
            self.store.remove_worker(worker.name)
        self._pool.close()

    def _run(self) -> None:
        recovered_at = cleaned_at = 0.0
        while not self._stopping.is_set():
            try:
                self._look()
                if time.monotonic() - recovered_at > SECONDS_BETWEEN_RECOVERIES:
                    recovered_at = time.monotonic()
                    self._recover()
                if time.monotonic() - cleaned_at > SECONDS_BETWEEN_CLEANINGS:
                    cleaned_at = time.monotonic()
                    self._clean_up()
            except Exception:  # without this thread, no worker is started again, and none can report
                logger.exception("the supervisor failed, and goes on")
            self._stopping.wait(SECONDS_BETWEEN_LOOKS)

    def _look(self) -> None:
        for index, worker in list(self.running.items()):
            reason = worker.end()
            self._read(index, worker)
            if reason is not None:
                self._bury(index, worker, reason)
        surplus = len(self.running) - len(self._stopped) - self._num_wanted()
        if surplus <= 0:
            self._needed_at = time.monotonic()
            self._start(-surplus)
        elif time.monotonic() - self._needed_at > SECONDS_TO_KEEP_IDLE:
            self._stop_idle(surplus)

    def _recover(self) -> None:
        """Queue the jobs of workers that stopped answering, of this server or of another."""
        for _ in self.store.recover():
            self.metrics.count("failed")

    def _num_wanted(self) -> int:
        """How many workers there should be: those with jobs, and more while jobs wait."""
        if self._least == self._most:
            return self._most
        batches = math.ceil(self.store.count("queued") / self.settings.limits.batch)
        return min(max(len(self._busy()) + batches, self._least), self._most)

    def _busy(self) -> set[int]:
        """The workers that have jobs."""
        names = self.store.busy_workers()
        return {index for index, worker in self.running.items() if worker.name in names}

    def _start(self, count: int) -> None:
        """Start workers, unless one died at their place a moment ago."""
        free = [index for index in range(self._most) if index not in self.running]
        for index in free[:count]:
            if time.monotonic() >= self._start_at[index]:
                self.running[index] = self._pool.start(index)

    def _stop_idle(self, count: int) -> None:
        """Ask workers without jobs to end. One that takes a job at this moment gives it back."""
        idle = self.running.keys() - self._stopped - self._busy()
        for index in sorted(idle, reverse=True)[:count]:
            self.running[index].stop()
            self._stopped.add(index)

    def _read(self, index: int, worker: RunningWorker) -> None:
        """Count what a worker has finished."""
        for report in worker.reports():
            if "cannot_start" in report:
                self.failure = report["cannot_start"]
                logger.error(self.failure, extra={"worker": worker.name})
            else:
                self.failure, self._pauses[index] = None, 0.0
                self.metrics.finished(report)

    def _bury(self, index: int, worker: RunningWorker, reason: str) -> None:
        """Queue the jobs of a worker that died, and let another take its place: at once, but later if it dies again."""
        for _ in self.store.worker_died(worker.name, reason):
            self.metrics.count("failed")
        self.store.remove_worker(worker.name)
        del self.running[index]
        if index in self._stopped:
            self._stopped.remove(index)
            return
        logger.error("a worker died: %s", reason, extra={"worker": worker.name})
        pause = self._pauses[index]
        self._start_at[index] = time.monotonic() + pause
        self._pauses[index] = min(LONGEST_PAUSE, max(0.5, 2 * pause))

    def _clean_up(self) -> None:
        """Remove finished videos past their time or space, and folders that no job owns."""
        expired = self.store.expired(self.settings.keep_bytes)
        self.store.remove(expired)
        for job_id in expired:
            remove(self.settings.folder(job_id))
        before = time.time() - SECONDS_UNTIL_ADDED
        folders = {path.name: path for path in self.settings.folder("").glob("*") if _is_older(path, before)}
        for job_id in folders.keys() - self.store.existing(folders):
            remove(folders[job_id])


def _is_older(path: Path, than: float) -> bool:
    """Whether a folder was changed before a time. False if it was removed at this moment."""
    try:
        return path.stat().st_mtime < than
    except FileNotFoundError:
        return False
