from pathlib import Path

import psutil
import pytest
import torch

from starflow.hardware import free
from starflow.hardware.free import available_memory

CPU = torch.device("cpu")


def test_the_free_memory_of_this_machine_is_known():
    assert 2**26 < available_memory(CPU) <= psutil.virtual_memory().total


@pytest.mark.parametrize(("limit", "expected"), [("1000", 1000 - 700 + 100), ("max", None), (str(2**60), None)])
def test_a_container_has_no_more_than_its_limit(limit: str, expected: int | None, tmp_path: Path, monkeypatch):
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 100\n")
    monkeypatch.setattr(free, "CGROUP", tmp_path)
    available = available_memory(CPU)
    assert available == expected if expected else available > 2**26


def test_the_memory_of_a_missing_device_is_unknown():
    if not torch.cuda.is_available():
        assert available_memory(torch.device("cuda")) is None
