"""A worker: it owns a model, and makes jobs until it is told to stop. It has a process of its own."""

import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Event
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from sqlalchemy.exc import SQLAlchemyError

from starflow.errors import StarflowError
from starflow.hardware.placement import place, use_device
from starflow.media.files import remove
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.serve.database import Job
from starflow.serve.job_files import remove_unneeded, size_of
from starflow.serve.jobs import JobStore
from starflow.serve.logs import log_as_json
from starflow.serve.making import make_videos
from starflow.serve.processes import set_when_parent_dies
from starflow.serve.scoring import score
from starflow.serve.settings import ServeSettings
from starflow.serve.source import JobSource
from starflow.serve.watch import Aborted, Watch

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CLAIMS = 0.05
SECONDS_BETWEEN_REPORTS = 2.0

Report = Callable[[dict[str, Any]], None]


def run_worker(settings: ServeSettings, server: str, device: str, reports: Connection) -> None:
    """The life of a worker process. It ends at SIGTERM, or when the process that started it is gone.

    The worker is called `SERVER-PID`. `reports` is sent a dictionary for each job that ends, for the metrics.
    """
    stopping, name = Event(), f"{server}-{os.getpid()}"
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then stops its workers
    set_when_parent_dies(stopping)
    source = JobStore(settings.database_url, settings.keep_seconds)
    if not work(settings, name, device, source, reports.send, stopping):
        sys.exit(1)


def work(settings: ServeSettings, name: str, device: str, source: JobSource, report: Report, stopping: Event) -> bool:
    """Load the model, and make jobs until `stopping` is set. Returns False if the model cannot be loaded.

    `report` is called for each job that ends, or with the reason why the model cannot be loaded.
    """
    log_as_json()
    try:
        pipeline = load(settings, device)
    except StarflowError as error:
        report({"cannot_start": str(error)})
        return False
    logger.info("the worker is ready", extra={"worker": name})
    Worker(settings, name, pipeline, source, report, stopping).run()
    return True


def load(settings: ServeSettings, device: str) -> StarFlowPipeline:
    """The model on its device, with the adapters that clients may use. Raises StarflowError."""
    on_device = use_device(device)
    pipeline = settings.fitting.load(settings.model, on_device, settings.dtype)
    pipeline.set_progress_bar_config(disable=True)
    for name, source in settings.loras.items():
        pipeline.load_lora_weights(source, name)
    return place(pipeline, on_device, settings.fitting.offload)


def use_lora(pipeline: StarFlowPipeline, lora: Mapping[str, Any] | None) -> None:
    """Activate one of the adapters that are loaded, with its scale; None for the model without any."""
    if lora is not None:
        pipeline.enable_lora()
        pipeline.set_adapters(lora["name"], lora["scale"])
    elif hasattr(pipeline.flow, "peft_config"):
        pipeline.disable_lora()


class Worker:
    """Claims jobs and makes them."""

    def __init__(
        self,
        settings: ServeSettings,
        name: str,
        pipeline: StarFlowPipeline,
        source: JobSource,
        report: Report,
        stopping: Event,
    ) -> None:
        self.settings, self.name, self.pipeline = settings, name, pipeline
        self._source, self._send_report, self._stopping = source, report, stopping
        self._reported_at = 0.0

    def run(self) -> None:
        """Work until the worker is told to stop; give back what is not finished."""
        while not self._stopping.is_set():
            try:
                self._say_ready()
                jobs = self._source.claim(self.name, self.settings.limits.batch)
                if jobs:
                    self._work(jobs)
                else:
                    self._stopping.wait(SECONDS_BETWEEN_CLAIMS)
            except SQLAlchemyError:
                logger.exception("the database does not answer", extra={"worker": self.name})
        self._source.release(self.name)
        self._source.remove_worker(self.name)

    def _say_ready(self) -> None:
        if time.monotonic() - self._reported_at > SECONDS_BETWEEN_REPORTS:
            self._source.report_worker(self.name, peak_memory(self.pipeline._execution_device))
            self._reported_at = time.monotonic()

    def _work(self, jobs: Sequence[Job]) -> None:
        """Make jobs that were claimed together, and store how they ended."""
        folders = [self.settings.folder(job.id) for job in jobs]
        with Watch(self._source, self.name, jobs, self._stopping) as watch:
            try:
                use_lora(self.pipeline, jobs[0].settings.get("lora"))
                if jobs[0].kind == "score":
                    result, stages = score(self.pipeline, jobs[0], folders[0]), {}
                else:
                    result, stages = None, make_videos(self.pipeline, jobs, folders, watch).clock.seconds
                error = None
            except Aborted:
                error = None
            except Exception as problem:
                error = problem
        # After the watch, so that nothing else writes to these rows.
        if self._stopping.is_set():
            return  # `run` gives the jobs back
        for job in jobs:
            if not watch.owns(job):
                self._clean_up(job)
            elif error is None:
                self._end(job, "completed", stages, result=result, progress=100)
            elif len(jobs) > 1:
                self._source.make_alone(self.name, [job.id])
            else:
                code, message = explained(error)
                logger.error(message, extra=self._about(job), exc_info=error)
                self._end(job, "failed", {}, error_code=code, error_message=message)
        del error
        free_memory()

    def _end(self, job: Job, status: str, stages: dict[str, float], **values: Any) -> None:
        folder = self.settings.folder(job.id)
        remove_unneeded(job, folder)
        if not self._source.finish(self.name, job.id, status, size_bytes=size_of(folder), **values):
            self._clean_up(job)
            return
        logger.info("a job has ended", extra=self._about(job) | {"status": status, "stages": stages})
        report = {"finished_reason": status, "stages": stages, "created": job.created_at, "started": job.started_at}
        self._report(report | {"completed": time.time()})

    def _clean_up(self, job: Job) -> None:
        """Remove the files of a job that was taken from this worker, unless another is to make it."""
        if self._source.is_cancelled(job.id):
            remove(self.settings.folder(job.id))
            logger.info("a job was cancelled", extra=self._about(job))
        else:
            logger.warning("a job was given to another worker", extra=self._about(job))

    def _about(self, job: Job) -> dict[str, Any]:
        return {"worker": self.name, "job": job.id, "request_id": job.request_id}

    def _report(self, report: dict[str, Any]) -> None:
        with suppress(OSError):  # the server is gone; its successor reads the database
            self._send_report(report)


def explained(error: Exception) -> tuple[str, str]:
    """A code and a line for the client."""
    if isinstance(error, StarflowError):
        return "generation_failed", " ".join(str(error).split())
    if isinstance(error, MemoryError) or should_reduce_batch_size(error):
        return "out_of_memory", "there is not enough memory: make a shorter or smaller video"
    return "internal_error", f"the server failed: {type(error).__name__}"


def free_memory() -> None:
    """Give back the memory of what was made."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> int:
    """The most bytes that were taken of the device's memory, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else 1024 * kilobytes
