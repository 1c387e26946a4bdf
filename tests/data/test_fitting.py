import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from clip_sources import moving_noise
from starflow.data.clip import Clip, Edit
from starflow.data.fitting import ClipFormat, fit_clip
from starflow.encoders.video import VideoCodec
from tiny_pipeline import tiny_vae

TO = ClipFormat(num_frames=9, fps=8, height=32, width=48)


@pytest.fixture(scope="module")
def codec() -> VideoCodec:
    torch.manual_seed(0)
    return VideoCodec(tiny_vae())


def fit(codec: VideoCodec, num_frames: int, fps: float = 8, **more):
    return fit_clip(Clip(moving_noise(num_frames), fps, ["a"], **more), TO, codec)


@pytest.mark.parametrize(
    ("num_frames", "fps", "kept"),
    [
        (9, 8, 9),
        (12, 8, 9),  # cut to the autoencoder's 1 + 4k
        (13, 8, 13),
        (100, 8, 41),  # five times the model's length
        (18, 16, 9),
        (17, 8.1, 17),
    ],
)
def test_a_clip_is_fitted_in_size_rate_and_length(codec: VideoCodec, num_frames: int, fps: float, kept: int):
    videos, reasons = fit(codec, num_frames, fps)
    assert reasons == []
    assert {name: video.shape for name, video in videos.items()} == {
        "clip": (kept, 32, 48, 3),
        "last": (1, 32, 48, 3),
    }
    assert np.array_equal(videos["last"][0], videos["clip"][8])


def test_a_clip_that_fits_is_kept_as_it_is(codec: VideoCodec):
    video = moving_noise(13, 32, 48)
    videos, _ = fit_clip(Clip(video, 8, ["a"]), TO, codec)
    assert np.array_equal(videos["clip"], video)


@pytest.mark.parametrize(("num_frames", "fps"), [(1, 0), (1, 8), (3, 0)])
def test_pictures_are_kept_as_pictures(codec: VideoCodec, num_frames: int, fps: float):
    videos, reasons = fit(codec, num_frames, fps)
    assert reasons == []
    assert {name: video.shape for name, video in videos.items()} == {"clip": (1, 32, 48, 3)}


@pytest.mark.parametrize(("num_frames", "fps", "length"), [(8, 8, 8), (16, 16, 8), (9, 30, 3)])
def test_short_clips_are_left_out_with_the_reason(codec: VideoCodec, num_frames: int, fps: float, length: int):
    assert fit(codec, num_frames, fps) == ({}, [f"has {length} frames at 8 fps, and the model's clips have 9"])


def test_edits_are_as_long_as_the_models_clips_and_keep_their_numbers(codec: VideoCodec):
    edits = [Edit("shorter", moving_noise(5)), Edit("longer", moving_noise(17, seed=1))]
    videos, reasons = fit(codec, 17, edits=edits)
    assert reasons == ["its edit 'shorter' has only 5 frames at 8 fps"]
    assert set(videos) == {"clip", "last", "edit.1"}
    assert videos["edit.1"].shape == (9, 32, 48, 3)


def test_a_model_of_images_takes_first_frames():
    vae = AutoencoderKL(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4)
    to = ClipFormat(num_frames=1, fps=8, height=32, width=32)
    videos, _ = fit_clip(Clip(moving_noise(9), 8, ["a"]), to, VideoCodec(vae))
    assert {name: video.shape for name, video in videos.items()} == {"clip": (1, 32, 32, 3)}
