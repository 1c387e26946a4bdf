"""Starts several processes with the environment of torchrun. They are forked from a server, which is fast."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT = 600  # seconds; with other work on the machine, a step may take many


def run_processes(
    size: int, work: Callable[..., Any], *arguments: Any, log: Path, timeout: float = TIMEOUT
) -> list[int | None]:
    """Exit codes of `size` processes that each call `work(*arguments)`, a function of `shared_work`.

    Their output goes to `log/RANK.out` and `log/RANK.err`. A process that still runs after `timeout` seconds is
    killed: its exit code is negative.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["starflow.pipeline.pipeline", "starflow.hardware.parallel", "starflow.hardware.memory", "starflow.train.flow"]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_run, args=(rank, size, port, log, work, arguments), daemon=True) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _run(rank: int, size: int, port: int, log: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(log / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY), descriptor)
    about = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in about.items()})
    sys.exit(work(*arguments))
