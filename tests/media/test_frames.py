import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from starflow.media.frames import fit_frames, from_unit, psnr, resample, resampled, to_frames, to_tensor


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


@pytest.mark.parametrize("size", [(10, 32), (6, 40), (10, 40)])
def test_fit_frames_crops_as_pillow_does(size: tuple[int, int]):
    frames = np.random.default_rng(0).integers(0, 256, (2, 10, 40, 3), dtype=np.uint8)
    expected = [np.asarray(ImageOps.fit(Image.fromarray(frame), size[::-1])) for frame in frames]
    assert np.array_equal(fit_frames(frames, *size), np.stack(expected))


def test_fit_frames_scales_and_crops():
    frames = np.zeros((1, 10, 40, 3), dtype=np.uint8)
    frames[:, :, 10:30] = 200
    assert (fit_frames(frames, 10, 20) == 200).all()
    assert fit_frames(frames, 5, 5).shape == (1, 5, 5, 3)
    assert fit_frames(frames, 10, 40) is frames


@pytest.mark.parametrize(
    ("num_frames", "fps", "new_fps", "shown"),
    [
        (8, 16, 8, [0, 2, 4, 6]),
        (3, 4, 8, [0, 0, 1, 1, 2]),
        (2, 8, 8, [0, 1]),
        (6, 12, 4, [0, 3, 5]),
        (1, 8, 16, [0, 0]),
    ],
)
def test_resampling_shows_the_frames_of_each_moment(num_frames: int, fps: float, new_fps: float, shown: list[int]):
    frames = np.arange(num_frames, dtype=np.uint8).reshape(-1, 1, 1, 1)
    assert resample(frames, fps, new_fps).flatten().tolist() == shown
    assert resampled(num_frames, fps, new_fps) == shown


@pytest.mark.parametrize("new_fps", [1, 8, 12.5, 15, 16, 24, 25, 24000 / 1001, 30, 50, 60])
@pytest.mark.parametrize("fps", [8, 16, 24, 25, 30000 / 1001, 60])
@pytest.mark.parametrize("num_frames", [17, 33, 49, 50, 81])
def test_resampling_keeps_the_length_to_the_nearest_frame(num_frames: int, fps: float, new_fps: float):
    shown = resampled(num_frames, fps, new_fps)
    length, new_length = (num_frames - 1) / fps, (len(shown) - 1) / new_fps
    assert abs(length - new_length) <= 0.511 / new_fps
    assert shown[0] == 0
    assert (num_frames - 1 - shown[-1]) / fps < 1 / new_fps + 1 / fps


@pytest.mark.parametrize(("num_frames", "fps", "new_fps", "kept"), [(33, 16, 8, 17), (97, 24, 16, 65), (16, 16, 8, 8)])
def test_lengths_that_models_take_stay_such_lengths(num_frames: int, fps: float, new_fps: float, kept: int):
    assert len(resampled(num_frames, fps, new_fps)) == kept
