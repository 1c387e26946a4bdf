"""The stopwatch with a clock that the tests move on, and the peak memory of this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import clocks
from clocks import PeakMemory, Stopwatch


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock on by some seconds."""
    now = 100.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(clocks, "seconds_now", lambda: now)
    return wait


def test_a_stage_does_not_count_the_time_of_the_stages_it_pulls_from(wait: Callable[[float], None]):
    watch = Stopwatch()

    def inner():
        for _ in range(3):
            wait(4)
            yield 1

    def outer(items):
        for item in items:
            wait(1)
            yield item

    for _ in watch.timed("outer", outer(watch.timed("inner", inner()))):
        wait(50)  # in no stage
    assert watch.seconds == {"inner": 12, "outer": 3}


def test_switching_renames_the_running_stage_from_then_on(wait: Callable[[float], None]):
    watch = Stopwatch()
    with watch.stage("deep"):
        wait(1)
        watch.switch("shallow")
        wait(3)
    assert watch.seconds == {"deep": 1, "shallow": 3}


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak of a process's memory"
)
def test_peak_memory_is_measured_since_the_reset():
    memory = PeakMemory(torch.device("cpu"))
    memory.reset()
    before = memory.mb()
    torch.ones(100_000_000, dtype=torch.uint8)
    assert 90 < memory.mb() - before < 300
    memory.reset()
    assert memory.mb() < before + 60
