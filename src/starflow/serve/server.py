"""What the parts of the API share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends
from fastapi.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from starflow.flow.model import StarFlow
from starflow.hardware.architecture import load_architecture
from starflow.media.files import remove
from starflow.pipeline.lora import check_lora, read_lora, require_peft
from starflow.serve.database import Job
from starflow.serve.decide import Decisions
from starflow.serve.errors import ApiError
from starflow.serve.jobs import ACTIVE, JobStore
from starflow.serve.metrics import Metrics
from starflow.serve.pool import ProcessPool, WorkerPool
from starflow.serve.settings import ServeSettings
from starflow.serve.supervisor import Supervisor

SECONDS_BETWEEN_LOOKS = 0.1
DECODERS = 2  # uploads that are decoded at once


@dataclass
class Server:
    """The settings, the jobs and the workers of one API process."""

    settings: ServeSettings
    store: JobStore
    decisions: Decisions
    metrics: Metrics
    supervisor: Supervisor
    decoders: anyio.CapacityLimiter

    @classmethod
    def of(cls, settings: ServeSettings) -> "Server":
        """Open the database and read the model's configuration. Raises UsageError or StarflowError."""
        settings.folder("").mkdir(parents=True, exist_ok=True)
        architecture = load_architecture(settings.model)
        settings.fitting.check(architecture, processes=1)
        _check_loras(settings.loras, architecture.flow)
        decisions = Decisions(settings, architecture.pipeline())
        store, metrics = JobStore(settings.database_url, settings.keep_seconds), Metrics()
        supervisor = Supervisor(settings, store, metrics, _pool(settings))
        return cls(settings, store, decisions, metrics, supervisor, anyio.CapacityLimiter(DECODERS))

    def video(self, job_id: str, owner: str) -> Job:
        """The job of a video. Raises ApiError if this owner has none with this id."""
        job = self.store.get(job_id, owner)
        if job is None or job.kind != "video":
            raise ApiError(404, f"there is no video {job_id!r}", param="video_id", code="not_found")
        return job

    def cancel(self, job: Job) -> None:
        """Cancel a job if it has not ended. Its worker stops after the sweep that it is in, and removes its files."""
        if self.store.cancel(job.id):
            self.metrics.count("cancelled")
            if job.status == "queued":
                remove(self.settings.folder(job.id))

    def delete(self, job: Job) -> None:
        """Cancel a job, and remove its row and its files."""
        self.cancel(job)
        self.store.remove([job.id])
        remove(self.settings.folder(job.id))

    async def wait(self, connection: HTTPConnection, job: Job) -> Job:
        """Wait until a job has ended; cancel it if the client goes away. Raises ApiError if the job fails."""
        while job.status in ACTIVE:
            if await connection.is_disconnected():  # type: ignore[attr-defined]
                await run_in_threadpool(self.delete, job)
                raise ApiError(499, "the client has gone away", code="cancelled")
            await anyio.sleep(SECONDS_BETWEEN_LOOKS)
            current = await run_in_threadpool(self.store.get, job.id)
            if current is None:
                raise ApiError(410, "the job was deleted", code="deleted")
            job = current
        if job.status != "completed":
            status = 400 if job.error_code == "generation_failed" else 500
            raise ApiError(status, job.error_message or f"the job was {job.status}", code=job.error_code or job.status)
        return job


def _check_loras(loras: Mapping[str, str], flow: StarFlow) -> None:
    """Raise StarflowError, before a worker loads the model, if an adapter is missing or is not for it."""
    if loras:
        require_peft()
    for source in loras.values():
        tensors, _ = read_lora(source)
        check_lora(tensors, flow, source)


def _pool(settings: ServeSettings) -> WorkerPool:
    """Where the workers run."""
    if settings.ray is None:
        return ProcessPool(settings)
    from starflow.serve.ray_pool import RayPool

    return RayPool(settings)


def get_server(connection: HTTPConnection) -> Server:
    """The server that answers a request."""
    return connection.app.state.server


def get_owner(connection: HTTPConnection) -> str:
    """The name of the client's key; empty if the server has no keys."""
    return connection.scope["state"]["owner"]


Serving = Annotated[Server, Depends(get_server)]
Owner = Annotated[str, Depends(get_owner)]
