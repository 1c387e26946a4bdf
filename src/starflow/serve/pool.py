"""Where the workers of a server run: in processes of this machine here, or on a Ray cluster (`ray_pool.py`)."""

import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from starflow.hardware.placement import best_device
from starflow.serve.processes import CONTEXT
from starflow.serve.settings import ServeSettings
from starflow.serve.worker import run_worker


class RunningWorker(Protocol):
    """A worker that was started. `name` is the one by which it holds jobs."""

    name: str

    def reports(self) -> Iterator[dict[str, Any]]:
        """What the worker has reported since the last call."""

    def end(self) -> str | None:
        """Why the worker has ended; None while it runs."""

    def stop(self) -> None:
        """Ask the worker to give back its jobs and to end."""

    def kill(self) -> None:
        """End the worker at once."""


class WorkerPool(Protocol):
    """Starts workers."""

    def start(self, index: int) -> RunningWorker:
        """Start the worker with this number. It loads the model, which takes a while."""

    def close(self) -> None:
        """End what the pool itself needed; its workers have ended."""


class WorkerProcess:
    """A worker in a process of this machine."""

    def __init__(self, name: str, process: BaseProcess, reports: Connection) -> None:
        self.name, self.process = name, process
        self._reports = reports

    def reports(self) -> Iterator[dict[str, Any]]:
        """See `RunningWorker`."""
        try:
            while self._reports.poll():
                yield self._reports.recv()
        except (EOFError, OSError):  # it has ended
            pass

    def end(self) -> str | None:
        """See `RunningWorker`."""
        code = self.process.exitcode
        if code is None:
            return None
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def stop(self) -> None:
        """See `RunningWorker`."""
        self.process.terminate()

    def kill(self) -> None:
        """See `RunningWorker`."""
        self.process.kill()
        self.process.join()


class ProcessPool:
    """Starts workers in processes of this machine."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings

    def start(self, index: int) -> WorkerProcess:
        """See `WorkerPool`."""
        server = server_name()
        receiver, sender = CONTEXT.Pipe(duplex=False)
        arguments = (self._settings, server, device_of(self._settings.device, index), sender)
        process = CONTEXT.Process(target=run_worker, args=arguments, daemon=True)
        process.start()
        sender.close()
        return WorkerProcess(f"{server}-{process.pid}", process, receiver)

    def close(self) -> None:
        """Nothing is left."""


def server_name() -> str:
    """The name of this API process; the names of its workers begin with it."""
    return f"{socket.gethostname()}-{os.getpid()}"


def device_of(name: str | None, index: int) -> str:
    """The device of a worker: each has its own GPU."""
    name = name or best_device()
    return f"cuda:{index % max(1, torch.cuda.device_count())}" if name == "cuda" else name
