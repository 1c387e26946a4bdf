import numpy as np
import pytest
import torch

from starflow.media.frames import psnr, to_tensor
from starflow.worlds.evaluation.pixels import most_changed, psnr_where, squared_errors

RNG = np.random.default_rng(0)


def test_the_psnr_is_that_of_the_mean_squared_error():
    frames, truth = RNG.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    errors = squared_errors(frames, truth)
    result = psnr_where(errors, np.ones_like(errors, bool), np.array(["a", "b", "c"]))
    everything = psnr(torch.as_tensor(to_tensor(frames))[None], to_tensor(truth)[None])
    assert result["value"] == pytest.approx(everything.item(), abs=1e-4)
    low, high = result["interval"]
    assert low <= result["value"] <= high


def test_only_pixels_of_the_mask_count():
    errors = np.ones((2, 4, 4), np.float32)
    errors[0, 0, 0] = 4e-4
    mask = np.zeros_like(errors, bool)
    mask[0, 0, 0] = True
    result = psnr_where(errors, mask, np.array(["a", "b"]))
    assert result["value"] == pytest.approx(40, abs=1e-4)
    assert (result["n"], result["interval"]) == (1, None)
    assert psnr_where(errors, np.zeros_like(mask), np.array(["a", "b"]))["value"] is None


def test_a_tenth_of_the_pixels_changes_most():
    last = np.zeros((2, 10, 10, 3), np.uint8)
    truth = last.copy()
    truth[0, 3, :] = 50
    truth[1] = np.arange(100).reshape(10, 10, 1)
    changed = most_changed(last, truth)
    assert (changed.sum(axis=(1, 2)) == 10).all()
    assert changed[0, 3].all() and changed[1, 9].all()
