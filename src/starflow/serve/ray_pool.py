"""Workers as actors of a Ray cluster, on any of its machines."""

import logging
import os
import secrets
import signal
import socket
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address  # there is no public way to find a cluster
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from starflow.errors import StarflowError, UsageError
from starflow.serve.pool import device_of, server_name
from starflow.serve.remote_jobs import Desk, RemoteJobs
from starflow.serve.settings import ServeSettings
from starflow.serve.worker import work

logger = logging.getLogger(__name__)

SECONDS_TO_CONNECT = 5.0


class WorkerActor:
    """A worker in a process that Ray starts. `stop` is called while `run` runs."""

    def __init__(self) -> None:
        self._stopping = Event()

    def run(self, settings: ServeSettings, name: str, desk: ActorHandle) -> None:
        """Work until `stop` is called."""
        with TemporaryDirectory(prefix="starflow-") as folder:
            settings = replace(settings, data_dir=Path(folder))
            jobs = RemoteJobs(desk, settings)
            work(settings, name, device_of(settings.device, 0), jobs, partial(jobs.report, name), self._stopping)

    def stop(self) -> None:
        """Give back the jobs, and end."""
        self._stopping.set()


class RayWorker:
    """A worker that runs as an actor."""

    def __init__(self, pool: "RayPool", name: str) -> None:
        self.name = name
        self._pool = pool
        self._actor = pool.worker_class.remote()
        self._started = self._actor.__ray_ready__.remote()
        self._run = self._actor.run.remote(pool.settings, name, pool.desk)

    def reports(self) -> Iterator[dict[str, Any]]:
        """See `RunningWorker`."""
        yield from self._pool.take_reports(self.name)

    def end(self) -> str | None:
        """See `RunningWorker`."""
        if not ray.wait([self._run], timeout=0)[0]:
            return None
        self.kill()  # the actor outlives the call
        try:
            ray.get(self._run)
        except RayError as error:
            return last_line(error)
        return "it has ended"

    def stop(self) -> None:
        """See `RunningWorker`."""
        if ray.wait([self._started], timeout=0)[0]:
            self._actor.stop.remote()
        else:
            self.kill()  # it may wait for a device for ever

    def kill(self) -> None:
        """See `RunningWorker`."""
        ray.kill(self._actor)


class RayPool:
    """Starts workers as actors: each has a GPU, or a core of a CPU. An actor beside the API gives them jobs.

    Raises UsageError or StarflowError if there is no such cluster, or this machine is not part of it.
    """

    def __init__(self, settings: ServeSettings) -> None:
        assert settings.ray is not None
        join(settings.ray)
        self._desk_settings = _without_keys(settings)
        device = settings.device or ("cuda" if ray.cluster_resources().get("GPU") else "cpu")
        cpus, gpus = (0, 1) if device == "cuda" else (1, 0)
        self.worker_class: Any = ray.remote(WorkerActor).options(num_cpus=cpus, num_gpus=gpus, max_concurrency=2)
        loras = {name: _absolute(source) for name, source in settings.loras.items()}
        self.settings = replace(
            self._desk_settings, device=device, database=None, model=_absolute(settings.model), loras=loras
        )
        self._reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.desk = self._open_desk()
        self._asked = self.desk.take_reports.remote()
        try:
            ray.get(self._asked)
        except RayError as error:
            raise StarflowError(f"Ray cannot give jobs to workers: {last_line(error)}") from error

    def start(self, index: int) -> RayWorker:
        """See `WorkerPool`. Ray finds a machine for the worker, which may have to wait for one."""
        return RayWorker(self, f"{server_name()}-{secrets.token_hex(4)}")

    def take_reports(self, worker: str) -> list[dict[str, Any]]:
        """What a worker has reported since the last call."""
        if ray.wait([self._asked], timeout=0)[0]:
            try:
                for name, report in ray.get(self._asked):
                    self._reports[name].append(report)
            except RayError:
                logger.exception("the desk does not answer: another is opened, for workers that start from now on")
                self.desk = self._open_desk()
            self._asked = self.desk.take_reports.remote()
        return self._reports.pop(worker, [])

    def _open_desk(self) -> Any:
        """Start the actor that gives jobs to workers, on this machine.

        Ray starts it again if it is killed, and repeats calls that were lost. That does no harm: a job that was claimed
        without its worker's knowledge is queued when the lease ends.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        desk = ray.remote(Desk).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
        return desk.remote(self._desk_settings, os.getcwd())

    def close(self) -> None:
        """Leave the cluster; Ray ends the actors."""
        ray.shutdown()


def join(address: str) -> None:
    """Make this process part of a cluster. Ray itself would wait for minutes for one that does not answer.

    Raises:
        UsageError: the address is neither `auto` nor HOST:PORT.
        StarflowError: no cluster answers, this machine is not part of it, or it has other versions.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and "/" not in host and port.isdecimal()):
        raise UsageError(f"--ray {address}: give auto, or HOST:PORT of the head node")
    try:
        found = canonicalize_bootstrap_address(address)
    except (ValueError, OSError) as error:
        raise UsageError(f"--ray {address}: {last_line(error)}") from error
    if found is None:
        raise StarflowError("no Ray cluster runs on this machine: start one with ray start --head")
    host, _, port = found.rpartition(":")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
        ray.init(found, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:
        raise StarflowError(f"no Ray cluster answers at {found}: {error.strerror or error}") from error
    except (RuntimeError, ValueError) as error:
        raise StarflowError(f"cannot join the Ray cluster at {found}: {last_line(error)}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # which Ray has replaced


def last_line(error: Exception) -> str:
    """The first sentence of the last line of an error of Ray: the cause."""
    return str(error).strip().splitlines()[-1].partition(". ")[0]


def _without_keys(settings: ServeSettings) -> ServeSettings:
    """The settings for other processes, which do not listen."""
    return replace(settings, host=ServeSettings.host, keys={})


def _absolute(source: str) -> str:
    """A file or folder as it is found from other working directories; a name or a hub id stays as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source
