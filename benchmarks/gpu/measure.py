"""What the stages share: the clock, peak memory, and figures that are on disk as soon as they are known."""

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from starflow.media.files import atomic_write

Item = TypeVar("Item")


class Results:
    """The figures of a stage on a device: rows, each of a table, and what failed.

    Args:
        path: the JSON file.
        device: that is measured.
        limit: the seconds that the stage may take, from now on.
    """

    def __init__(self, path: Path, device: torch.device, limit: float = inf) -> None:
        self.path, self.device = path, device
        self._end = time.monotonic() + limit
        self.rows: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []

    def add(self, table: str, **row: Any) -> None:
        """Add a row to a table, and write all rows."""
        self.rows.append({"table": table, **row})
        print(f"{table}: {row}", flush=True)
        self._write()

    def seconds_left(self) -> float:
        """Seconds until the stage's limit."""
        return self._end - time.monotonic()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Note an exception as a failure and go on; in any case give the memory of what was done back."""
        try:
            yield
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.failed.append({"what": what, "error": f"{type(error).__name__}: {reason[:300]}"})
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)
            self._write()
        release()

    def _write(self) -> None:
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps({"rows": self.rows, "failed": self.failed}), encoding="utf-8")


def release() -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The seconds that some work takes, on the device too."""
    _synchronize(device)
    start = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - start


def median_ms(work: Callable[[], Any], device: torch.device, repeats: int = 7, at_most: float = 2.0) -> float:
    """The median of the milliseconds of repeats, after a first time that does not count.

    No repeat is started after `at_most` seconds; there is always one.
    """
    work()
    end = time.perf_counter() + at_most
    times = [seconds(work, device)]
    while len(times) < repeats and time.perf_counter() < end:
        times.append(seconds(work, device))
    return 1000 * median(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StageMeter:
    """Seconds and peak memory of the stages of making a video, of which one runs at a time.

    The counterpart of `starflow.hardware.live_bytes.LiveBytes`, which computes the memory. `peaks` are the most bytes
    of tensors on the GPU, 0 on the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._since = 0.0
        self.switch("")

    def switch(self, stage: str) -> str:
        """What is done from here on belongs to `stage`, or to none; returns the stage before."""
        _synchronize(self.device)
        now, is_cuda = time.perf_counter(), self.device.type == "cuda"
        if self._stage:
            peak = torch.cuda.max_memory_allocated() if is_cuda else 0
            self.peaks[self._stage] = max(peak, self.peaks.get(self._stage, 0))
            self.seconds[self._stage] = now - self._since + self.seconds.get(self._stage, 0.0)
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        before, self._stage, self._since = self._stage, stage, now
        return before

    def during(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; making them belongs to `stage`."""
        iterator = iter(items)
        while True:
            outer = self.switch(stage)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.switch(outer)
            yield item


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most bytes of tensors on the device while some work is done; 0 on the CPU."""
    meter = StageMeter(device)
    meter.switch("work")
    work()
    meter.switch("")
    return meter.peaks["work"]
