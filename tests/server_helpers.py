"""A server with a tiny model, in this process, on a port of the loopback interface that is free."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import uvicorn

from starflow.media.video import write_video
from starflow.serve.api import create_app
from starflow.serve.listening import bound
from starflow.serve.processes import CONTEXT, choose_imports
from starflow.serve.server import Server
from starflow.serve.settings import Limits, ServeSettings

PROMPT = "a red circle moves right"
TIMEOUT = 180  # seconds: the machine may be busy
MANY_FRAMES = 4001  # take the tiny model many seconds


def settings_for(model: Path, data_dir: Path, **changes: Any) -> ServeSettings:
    """Settings of a server in tests; `limits` are changes of `Limits`."""
    limits = replace(Limits(seconds=3600), **changes.pop("limits", {}))
    return ServeSettings(str(model), data_dir, port=0, device="cpu", limits=limits, **changes)


class Client(httpx.Client):
    """Speaks to a server, and reaches into it. It waits for at most `patience` seconds."""

    def __init__(self, url: str, server: Server | None = None, patience: float = TIMEOUT) -> None:
        super().__init__(base_url=url, timeout=patience)
        self.url, self.server, self.patience = url, server, patience

    def make(self, prompt: str = PROMPT, **fields: Any) -> dict[str, Any]:
        """Queue a video."""
        response = self.post("/v1/videos", json={"prompt": prompt} | fields)
        assert response.status_code == 200, response.text
        return response.json()

    def wait(self, video: dict[str, Any], *statuses: str) -> dict[str, Any]:
        """Wait until a video has one of the statuses, by default until it has ended."""
        wanted = statuses or ("completed", "failed", "cancelled")
        until(lambda: (found := self.get(f"/v1/videos/{video['id']}").json())["status"] in wanted, self.patience)
        return self.get(f"/v1/videos/{video['id']}").json()

    def wait_until_ready(self) -> None:
        """Wait until a worker has loaded the model."""
        until(lambda: self.get("/ready").status_code == 200, self.patience)

    def kill_worker(self) -> None:
        """Kill the first worker, and wait until it is gone."""
        worker = self.server.supervisor.running[0]
        os.kill(worker.process.pid, signal.SIGKILL)
        until(lambda: worker not in self.server.supervisor.running.values())


@cache
def start_to_fork() -> None:
    """Start the process that the workers of all servers are forked from, with the libraries that any of them needs."""
    choose_imports(lean=False)
    ensure_running()


@contextmanager
def serving(settings: ServeSettings, patience: float = TIMEOUT) -> Iterator[Client]:
    """A client of a server that runs in a thread."""
    start_to_fork()
    app = create_app(settings)
    with bound(settings) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.server, patience) as client:
                client.wait_until_ready()
                yield client
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)


def until(condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
    """Wait until a condition holds. Raises TimeoutError if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.02)


def clip_file(path: Path, num_frames: int = 9, side: int = 32) -> Path:
    """A clip of noise."""
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, side, side, 3), dtype=np.uint8)
    return write_video(path, frames, 8)


def serve_in_process(settings: ServeSettings, ports: Connection) -> None:
    """A server in a process of its own, for tests that kill it. Sends its port."""
    with bound(settings) as listener:
        ports.send(listener.getsockname()[1])
        uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, access_log=False)).run(sockets=[listener])


@contextmanager
def separate_server(settings: ServeSettings, patience: float = TIMEOUT) -> Iterator[tuple[Client, int]]:
    """A client of a server in a process of its own, and the process's id. It is killed in the end."""
    start_to_fork()
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=serve_in_process, args=(settings, sender))
    process.start()
    try:
        with Client(f"http://127.0.0.1:{receiver.recv()}", patience=patience) as client:
            client.wait_until_ready()
            yield client, process.pid
    finally:
        process.kill()
        process.join()
