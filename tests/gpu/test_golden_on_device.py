"""Every golden number again, computed on the device: the tests are those of `tests/test_golden.py`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from starflow.convert.released import load_released
from test_golden import *  # noqa: F403 (pytest collects its tests here too)
from test_golden import CASES, Case

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=CASES, ids=[path.stem for path in CASES])
def case(request: pytest.FixtureRequest, device: torch.device) -> Case:
    path: Path = request.param
    flow, denoiser = load_released(json.loads(path.read_text())["config"], path.with_suffix(".pth"))
    io = {name: tensor.to(device) for name, tensor in load_file(path.with_suffix(".io.safetensors")).items()}
    return Case(flow.to(device), denoiser if denoiser is None else denoiser.to(device), io)
