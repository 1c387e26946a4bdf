"""Detection of NaN and infinity."""

import pytest
import torch

from starflow.weights.finite import is_finite


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_nan_and_infinity_are_found(dtype: torch.dtype):
    tensor = torch.full((3, 5), torch.finfo(dtype).max, dtype=dtype)
    assert is_finite(tensor)
    for value in (float("nan"), float("inf"), -float("inf")):
        damaged = tensor.clone()
        damaged[1, 2] = value
        assert not is_finite(damaged)
