import numpy as np
import pytest
import torch

from starflow.media.frames import fit_frames, from_unit, psnr, resample, to_frames, to_tensor


@pytest.mark.parametrize("shape", [(4, 6, 3), (2, 4, 6, 3), (5, 2, 4, 6, 3)])
def test_to_frames_is_the_inverse_of_to_tensor(shape: tuple[int, ...]):
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    video = to_tensor(frames)
    assert video.shape == (*shape[:-3], 3, *shape[-3:-1])
    assert video.dtype == torch.float32
    np.testing.assert_array_equal(to_frames(video), frames)


def test_tensors_range_from_minus_one_to_one():
    frames = np.array([0, 255], dtype=np.uint8).repeat(3).reshape(1, 2, 3)
    assert to_tensor(frames).flatten().unique().tolist() == [-1, 1]
    assert to_frames(torch.tensor([-3.0, 3.0]).view(1, 1, 2).expand(3, 1, 2)).flatten().tolist() == [0] * 3 + [255] * 3


def test_from_unit_rounds():
    assert from_unit(np.array([0.0, 0.4999, 0.501, 1.0])).tolist() == [0, 127, 128, 255]


def test_psnr_is_computed_per_video():
    truth = torch.zeros(2, 3, 4, 4)
    video = torch.stack([truth[0] + 0.2, truth[1]])
    expected = 10 * np.log10(4 / 0.04)
    torch.testing.assert_close(psnr(video, truth), torch.tensor([expected, 10 * np.log10(4e10)]).float())


def test_fit_frames_scales_and_crops():
    frames = np.zeros((1, 10, 40, 3), dtype=np.uint8)
    frames[:, :, 10:30] = 200
    assert (fit_frames(frames, 10, 20) == 200).all()
    assert fit_frames(frames, 5, 5).shape == (1, 5, 5, 3)
    assert fit_frames(frames, 10, 40) is frames


def test_resampling_drops_or_repeats_frames():
    frames = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    assert resample(frames, 12, 4).flatten().tolist() == [1, 4]
    assert resample(frames, 4, 8).flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
