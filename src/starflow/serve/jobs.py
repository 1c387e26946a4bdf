"""Jobs as rows of a database: SQLite for one API process, PostgreSQL for several.

    queued ──claim──→ in_progress ──finish──→ completed | failed
      ↑  └───────────────┼──────────cancel──→ cancelled
      └───its worker died, for the first time

A worker owns a job while it renews its lease. Every change of a running job names its worker, so that a worker whose
job was cancelled, or given to another, changes nothing.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from starflow.serve.database import Job, Worker, connect, retried

LEASE_SECONDS = 10.0
MAX_ATTEMPTS = 2
ACTIVE = ("queued", "in_progress")
FINISHED = ("completed", "failed", "cancelled")
WORKER_DIED = "worker_died"


class QueueFull(Exception):
    """The queue has as many jobs as it may have."""


def new_id(kind: str = "video") -> str:
    """A name that nobody can guess, such as `video_4f…`."""
    return f"{kind}_{secrets.token_hex(16)}"


class JobStore:
    """The jobs of a database. Methods may be called from several threads; lost connections are opened again."""

    def __init__(self, url: str, keep_seconds: float) -> None:
        self.engine = connect(url)
        self._keep_seconds = keep_seconds  # of jobs that have ended
        self._adding = Lock()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)

    def _ended(self, status: str) -> dict[str, Any]:
        """The values of a job that ends now."""
        now = time.time()
        return {"status": status, "completed_at": now, "expires_at": now + self._keep_seconds}

    # --- the API's side ----------------------------------------------------------------------------------------------

    @retried
    def add(self, job: Job, max_queued: int) -> Job:
        """Add a job to the queue. The same owner and idempotency key give the job that was added first.

        Raises QueueFull. Several API processes that add at the same moment may exceed the bound by their number.
        """
        with self._adding:
            if (earlier := self.find_idempotent(job.owner, job.idempotency_key)) is not None:
                return earlier
            if self.count("queued") >= max_queued:
                raise QueueFull
            try:
                with self._session() as session, session.begin():
                    session.add(job)
            except IntegrityError:  # added by another process, or by an attempt whose answer was lost
                earlier = self.find_idempotent(job.owner, job.idempotency_key) or self.get(job.id)
                if earlier is None:
                    raise
                return earlier
        return job

    @retried
    def find_idempotent(self, owner: str, key: str | None) -> Job | None:
        """The job that this owner added with this key."""
        if key is None:
            return None
        with self._session() as session:
            return session.scalar(select(Job).where(Job.owner == owner, Job.idempotency_key == key))

    @retried
    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """A job; None if there is none, or if it belongs to another owner than the one given."""
        with self._session() as session:
            return session.scalar(select(Job).where(Job.id == job_id, *_owned_by(owner)))

    @retried
    def page(self, owner: str, after: str | None, limit: int, *, newest_first: bool, kind: str) -> list[Job]:
        """Up to `limit` jobs of a kind, after the job called `after`."""
        order = Job.number.desc() if newest_first else Job.number.asc()
        query = select(Job).where(Job.owner == owner, Job.kind == kind).order_by(order).limit(limit)
        if after is not None:
            number = select(Job.number).where(Job.id == after).scalar_subquery()
            query = query.where(Job.number < number if newest_first else Job.number > number)
        with self._session() as session:
            return list(session.scalars(query))

    @retried
    def count(self, status: str) -> int:
        """How many jobs have this status."""
        with self._session() as session:
            return session.scalar(select(func.count()).where(Job.status == status)) or 0

    @retried
    def position(self, job: Job) -> int:
        """How many queued jobs come before a job."""
        with self._session() as session:
            query = select(func.count()).where(Job.status == "queued", Job.number < job.number)
            return session.scalar(query) or 0

    @retried
    def cancel(self, job_id: str) -> bool:
        """Cancel a job that has not ended. Returns whether it was cancelled."""
        return self._update(self._ended("cancelled"), Job.id == job_id, Job.status.in_(ACTIVE)) > 0

    @retried
    def remove(self, job_ids: Iterable[str]) -> None:
        """Delete jobs."""
        with self._session() as session, session.begin():
            session.execute(delete(Job).where(Job.id.in_(list(job_ids))))

    @retried
    def steer(self, job_id: str, prompt: str) -> bool:
        """Give a job that has not ended a new prompt. Returns whether it had not."""
        return self._update({"prompt": prompt}, Job.id == job_id, Job.status.in_(ACTIVE)) > 0

    @retried
    def existing(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the ids that are of jobs."""
        with self._session() as session:
            return set(session.scalars(select(Job.id).where(Job.id.in_(list(job_ids)))))

    @retried
    def expired(self, keep_bytes: int) -> list[str]:
        """Finished jobs that are to be removed: past their time, or the oldest of those that take too much space."""
        with self._session() as session:
            query = select(Job.id, Job.expires_at, Job.size_bytes).where(Job.status.in_(FINISHED))
            rows = session.execute(query.order_by(Job.completed_at.desc())).all()
        gone, total = [], 0
        for job_id, expires_at, size_bytes in rows:
            total += size_bytes
            if total > keep_bytes or (expires_at is not None and expires_at < time.time()):
                gone.append(job_id)
        return gone

    # --- the workers' side -------------------------------------------------------------------------------------------

    @retried
    def claim(self, worker: str, max_batch: int = 1) -> list[Job]:
        """Take the oldest queued job, and up to `max_batch - 1` others that can be made with it; empty if none."""
        now = time.time()
        values = {
            "status": "in_progress",
            "worker": worker,
            "started_at": now,
            "lease_until": now + LEASE_SECONDS,
            "attempts": Job.attempts + 1,
            "progress": 0,
        }
        queued = select(Job.number).where(Job.status == "queued").order_by(Job.number)
        with self._session() as session, session.begin():
            first = self._take(session, queued.limit(1), values)
            if not first or first[0].batch_key is None or max_batch == 1:
                return first
            alike = queued.where(Job.batch_key == first[0].batch_key).limit(max_batch - 1)
            return first + self._take(session, alike, values)

    @staticmethod
    def _take(session: Session, query: Any, values: dict[str, Any]) -> list[Job]:
        """Update the jobs that a query of numbers gives. PostgreSQL skips those that another worker is taking."""
        # The query is evaluated once: in a plain subquery, PostgreSQL may evaluate it again and take more rows.
        numbers = select(query.with_for_update(skip_locked=True).cte().c.number)
        taken = update(Job).where(Job.number.in_(numbers), Job.status == "queued").values(values).returning(Job)
        return sorted(session.scalars(taken), key=lambda job: job.number)

    @retried
    def renew(self, worker: str, job_ids: Sequence[str], progress: int) -> dict[str, str]:
        """Extend the leases of a worker's jobs, and store their progress in percent.

        Returns those of `job_ids` that it still owns, with their current prompts.
        """
        values = {"lease_until": time.time() + LEASE_SECONDS, "progress": progress}
        renewed = update(Job).where(*_held_by(worker), Job.id.in_(job_ids)).values(values)
        with self._session() as session, session.begin():
            return dict(session.execute(renewed.returning(Job.id, Job.prompt)).all())

    @retried
    def finish(self, worker: str, job_id: str, status: str, **values: Any) -> bool:
        """End a running job. Returns False, and stores nothing, if the worker no longer owns it.

        True as well if the worker has ended it so already: by an attempt whose answer was lost.
        """
        if self._update(self._ended(status) | values, Job.id == job_id, *_held_by(worker)):
            return True
        job = self.get(job_id)
        return job is not None and (job.worker, job.status) == (worker, status)

    @retried
    def make_alone(self, worker: str, job_ids: Sequence[str]) -> None:
        """Queue jobs again whose batch failed, each on its own: one of them may be at fault."""
        values = {"status": "queued", "worker": None, "batch_key": None, "attempts": Job.attempts - 1}
        self._update(values, Job.id.in_(job_ids), *_held_by(worker))

    @retried
    def release(self, worker: str) -> None:
        """Queue the jobs of a worker that stops in an orderly way, as if it had not begun."""
        self._update({"status": "queued", "worker": None, "attempts": Job.attempts - 1}, *_held_by(worker))

    def is_cancelled(self, job_id: str) -> bool:
        """Whether a job was cancelled; it may also have been removed since."""
        job = self.get(job_id)
        return job is None or job.status == "cancelled"

    @retried
    def worker_died(self, worker: str, reason: str) -> list[str]:
        """Queue the jobs of a worker that died. Those that were begun too often fail; their ids are returned."""
        return self._give_back(and_(*_held_by(worker)), reason)

    @retried
    def recover(self) -> list[str]:
        """Do the same for jobs whose lease has ended, whatever has become of their workers."""
        ended = and_(Job.status == "in_progress", Job.lease_until < time.time())
        return self._give_back(ended, "the worker stopped answering")

    def _give_back(self, lost: ColumnElement[bool], reason: str) -> list[str]:
        failure = self._ended("failed") | {
            "error_code": WORKER_DIED,
            "error_message": f"the worker process died {MAX_ATTEMPTS} times while it made this: {reason}",
        }
        with self._session() as session, session.begin():
            too_often = update(Job).where(lost, Job.attempts >= MAX_ATTEMPTS).values(failure).returning(Job.id)
            failed = list(session.scalars(too_often))
            session.execute(update(Job).where(lost).values(status="queued", worker=None, progress=0))
        return failed

    def _update(self, values: dict[str, Any], *conditions: ColumnElement[bool]) -> int:
        with self._session() as session, session.begin():
            return session.execute(update(Job).where(*conditions).values(values)).rowcount  # type: ignore[attr-defined]

    # --- workers -----------------------------------------------------------------------------------------------------

    @retried
    def report_worker(self, name: str, peak_memory_bytes: int) -> None:
        """Say that a worker is ready, or still is, and how much memory it took at most."""
        with self._session() as session, session.begin():
            session.merge(Worker(name=name, seen_at=time.time(), peak_memory_bytes=peak_memory_bytes))

    @retried
    def remove_worker(self, name: str) -> None:
        """Forget a worker that has ended."""
        with self._session() as session, session.begin():
            session.execute(delete(Worker).where(Worker.name == name))

    @retried
    def busy_workers(self) -> set[str]:
        """The names of the workers that have jobs."""
        with self._session() as session:
            return set(session.scalars(select(Job.worker).where(Job.status == "in_progress").distinct()))

    @retried
    def ready_workers(self) -> list[Worker]:
        """The workers that have loaded the model and still answer: to us, or with progress of their jobs."""
        now = time.time()
        working = select(Job.worker).where(Job.status == "in_progress", Job.lease_until > now)
        answers = (Worker.seen_at > now - LEASE_SECONDS) | Worker.name.in_(working)
        with self._session() as session:
            return list(session.scalars(select(Worker).where(answers)))


def _owned_by(owner: str | None) -> list[ColumnElement[bool]]:
    return [] if owner is None else [Job.owner == owner]


def _held_by(worker: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return Job.worker == worker, Job.status == "in_progress"
