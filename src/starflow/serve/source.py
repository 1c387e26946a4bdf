"""What a worker asks for."""

from collections.abc import Sequence
from typing import Any, Protocol

from starflow.serve.database import Job


class JobSource(Protocol):
    """Where a worker gets jobs, and says what becomes of them.

    It is `JobStore`, which describes these methods; for a worker on another machine, it is `RemoteJobs`.
    """

    def claim(self, worker: str, max_batch: int = 1) -> list[Job]:
        """Take jobs from the queue."""

    def renew(self, worker: str, job_ids: Sequence[str], progress: int) -> dict[str, str]:
        """Say that the jobs are still being made."""

    def finish(self, worker: str, job_id: str, status: str, **values: Any) -> bool:
        """End a job."""

    def make_alone(self, worker: str, job_ids: Sequence[str]) -> None:
        """Queue jobs whose batch failed."""

    def release(self, worker: str) -> None:
        """Give back all jobs."""

    def is_cancelled(self, job_id: str) -> bool:
        """Whether a job was cancelled."""

    def report_worker(self, name: str, peak_memory_bytes: int) -> None:
        """Say that the worker is ready."""

    def remove_worker(self, name: str) -> None:
        """Say that the worker ends."""
