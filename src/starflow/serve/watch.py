"""While a worker makes jobs, a thread renews its lease on them, stores their progress, and learns what was changed."""

import logging
from collections.abc import Callable, Iterator, Sequence
from threading import Event, Thread

from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor

from starflow.sampling.solvers import Gaussians, Progress, Solver, Solvers
from starflow.serve.database import Job
from starflow.serve.source import JobSource

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.2


class Aborted(Exception):
    """The jobs no longer belong to this worker: they were cancelled, or the server stops."""


class Watch:
    """The jobs that a worker makes. `check` is called often: it reads memory only.

    Args:
        source: where the jobs are from.
        worker: the name of the worker.
        jobs: what it has claimed.
        stopping: set when the worker is to stop.
    """

    def __init__(self, source: JobSource, worker: str, jobs: Sequence[Job], stopping: Event) -> None:
        self.prompts = {job.id: job.prompt for job in jobs}  # of the jobs that the worker still owns
        self.progress = 0
        self._source, self._worker, self._stopping = source, worker, stopping
        self._ended = Event()
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        self._renew()  # so that `owns` is true of the end, and workers on other machines send the last fragments

    def owns(self, job: Job) -> bool:
        """Whether a job still belongs to this worker."""
        return job.id in self.prompts

    def check(self) -> None:
        """Raise Aborted if no job is left, or the worker is to stop."""
        if not self.prompts or self._stopping.is_set():
            raise Aborted

    def checked(self, solvers: Solvers) -> Solvers:
        """The same solvers, which check after every sweep."""
        return Solvers(*(_checked(solver, self.check) for solver in solvers))

    def _look(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            self._renew()

    def _renew(self) -> None:
        try:
            self.prompts = self._source.renew(self._worker, list(self.prompts), self.progress)
        except SQLAlchemyError:
            logger.warning("the database does not answer", extra={"worker": self._worker})


def _checked(solver: Solver, check: Callable[[], None]) -> Solver:
    def run(gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int) -> Iterator[Progress]:
        for progress in solver(gaussians, z, v, start, stop, frame_tokens):
            check()
            yield progress

    return run
