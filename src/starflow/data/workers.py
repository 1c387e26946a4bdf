"""Reading in other processes, in order and with bounded memory."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import multiprocessing  # with it, processes exchange tensors through shared memory

from starflow.errors import StarflowError

Reader = TypeVar("Reader")
Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # results of each process that wait to be taken, at most

_reader: Any = None  # that of this process, if it is a worker


class Workers(Generic[Reader]):
    """Processes that each have a copy of a reader."""

    def __init__(self, pool: ProcessPoolExecutor, number: int) -> None:
        self.pool, self.number = pool, number

    def submit(self, method: Callable[[Reader, Item], Result], item: Item) -> "Future[Result]":
        """The future result of `method(reader, item)`."""
        return self.pool.submit(_call, method, item)

    def map(self, method: Callable[[Reader, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`method(reader, item)` of each item, in order.

        Raises StarflowError if a process is killed, for example because memory ran out, and what `method` raises.
        """
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self.submit(method, item))
                if len(waiting) > AHEAD * self.number:
                    yield result_of(waiting.popleft())
            while waiting:
                yield result_of(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()


class ThisProcess(Generic[Reader]):
    """Does the work of `Workers` in this process."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def map(self, method: Callable[[Reader, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`method(reader, item)` of each item, in order."""
        return (method(self.reader, item) for item in items)


@contextmanager
def workers(number: int, reader: Reader) -> Iterator[Workers[Reader] | ThisProcess[Reader]]:
    """`number` processes, which end with the context; 0: this process."""
    if number == 0:
        yield ThisProcess(reader)
        return
    started = start_workers(number, reader)
    try:
        yield started
    finally:
        started.pool.shutdown(cancel_futures=True)


def start_workers(number: int, reader: Reader) -> Workers[Reader]:
    """Processes that end with this one. They do not copy its memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["starflow.lean", "starflow.data.check", "starflow.data.encoding", "starflow.data.loader"]
    )
    return Workers(ProcessPoolExecutor(number, context, initializer=_start, initargs=(reader,)), number)


def result_of(future: "Future[Result]") -> Result:
    """The result. Raises StarflowError if the process was killed."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise StarflowError("a process that reads clips was killed: is there enough memory?") from error


def _start(reader: Any) -> None:
    global _reader
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _reader = reader


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(method: Callable[[Any, Item], Result], item: Item) -> Result:
    return method(_reader, item)
