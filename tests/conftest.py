"""Settings of every test: one thread per process, a fixed seed, and no network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def no_measurements(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured on this machine does not change what is tested."""
    monkeypatch.setenv("STARFLOW_CACHE", str(Path(tmp_path_factory.getbasetemp()) / "no-measurements"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
