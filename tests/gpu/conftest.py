"""Where the tests of a GPU run: on CUDA, or on the device that `STARFLOW_TEST_DEVICE` names, to prove them there."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    device = torch.device(os.environ.get("STARFLOW_TEST_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("there is no CUDA device; STARFLOW_TEST_DEVICE=cpu runs these tests on the CPU", pytrace=False)
    return device


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Convolutions in float32 as it is: by default CUDA rounds their inputs to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
