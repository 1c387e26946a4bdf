from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_sources import ClipList, moving_noise
from made_media import colored, number_of, write_media
from starflow.data.clip import Clip, Edit
from starflow.data.fitting import ClipFormat, find_excerpts, fit_clip, read_excerpt
from starflow.data.folder import ClipFolder

TO = ClipFormat(num_frames=9, fps=8, height=32, width=48)


def fit(num_frames: int, fps: float = 8, **more):
    return fit_clip(Clip(moving_noise(num_frames), fps, ["a"], **more), TO, 4)


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
def test_a_clip_is_fitted_in_size_rate_and_length(num_frames: int, fps: float, kept: int):
    videos, reasons = fit(num_frames, fps)
    assert reasons == []
    assert {name: video.shape for name, video in videos.items()} == {
        "clip": (kept, 32, 48, 3),
        "last": (1, 32, 48, 3),
    }
    assert np.array_equal(videos["last"][0], videos["clip"][8])


def test_a_clip_that_fits_is_kept_as_it_is():
    video = moving_noise(13, 32, 48)
    videos, _ = fit_clip(Clip(video, 8, ["a"]), TO, 4)
    assert np.array_equal(videos["clip"], video)


@pytest.mark.parametrize(("num_frames", "fps"), [(1, 0), (1, 8), (3, 0)])
def test_pictures_are_kept_as_pictures(num_frames: int, fps: float):
    videos, reasons = fit(num_frames, fps)
    assert reasons == []
    assert {name: video.shape for name, video in videos.items()} == {"clip": (1, 32, 48, 3)}


@pytest.mark.parametrize(("num_frames", "fps", "length"), [(8, 8, 8), (16, 16, 8), (9, 30, 3)])
def test_short_clips_are_left_out_with_the_reason(num_frames: int, fps: float, length: int):
    assert fit(num_frames, fps) == ({}, [f"has {length} frames at 8 fps, and the model's clips have 9"])


def test_edits_are_as_long_as_the_models_clips_and_keep_their_numbers():
    edits = [Edit("shorter", moving_noise(5)), Edit("longer", moving_noise(17, seed=1))]
    videos, reasons = fit(17, edits=edits)
    assert reasons == ["its edit 'shorter' has only 5 frames at 8 fps"]
    assert set(videos) == {"clip", "last", "edit.1"}
    assert videos["edit.1"].shape == (9, 32, 48, 3)


def test_a_model_of_images_takes_first_frames():
    to = ClipFormat(num_frames=1, fps=8, height=32, width=32)
    videos, _ = fit_clip(Clip(moving_noise(9), 8, ["a"]), to, 1)
    assert {name: video.shape for name, video in videos.items()} == {"clip": (1, 32, 32, 3)}


def excerpts(num_frames: int, **changes: object) -> list[tuple[float, int]]:
    to = replace(TO, **changes)
    return [tuple(each) for each in find_excerpts(ClipList([Clip(moving_noise(num_frames), 8, ["a"])]), 0, to)]


def test_the_frames_of_a_clip_that_are_used():
    assert excerpts(30, frames="head") == [(0, 41)]
    assert excerpts(30, frames="chunks") == [(0, 9), (9 / 8, 9), (18 / 8, 9)]
    assert excerpts(30, frames="chunks", lengths=(5, 13)) == [(0, 13), (13 / 8, 13)]
    assert excerpts(32, frames="chunks", lengths=(5, 13)) == [(0, 13), (13 / 8, 13), (26 / 8, 5)]
    assert excerpts(30, frames="uniform") == [(0, 9), (7 / 8, 9), (14 / 8, 9), (21 / 8, 9)]
    assert excerpts(9, frames="uniform") == excerpts(9, frames="random") == [(0, 9)]
    assert excerpts(6, frames="chunks") == [(0, 6)]  # which is too short


def test_a_random_excerpt_is_always_the_same_and_differs_between_clips():
    source = ClipList([Clip(moving_noise(100), 8, ["a"])] * 20)
    starts = [find_excerpts(source, index, replace(TO, frames="random"))[0].start for index in range(20)]
    assert starts == [find_excerpts(source, index, replace(TO, frames="random"))[0].start for index in range(20)]
    assert len(set(starts)) > 10 and max(starts) <= 91 / 8


def test_of_a_long_file_only_the_excerpt_is_decoded(tmp_path: Path):
    write_media(tmp_path / "a.mp4", colored(23), 8)
    (tmp_path / "a.txt").write_text("a clip")
    source = ClipFolder(str(tmp_path))
    to = ClipFormat(5, 8, 32, 48, frames="uniform")
    found = find_excerpts(source, 0, to)
    clips = [read_excerpt(source, 0, excerpt, to).video for excerpt in found]
    assert [clip.shape for clip in clips] == [(5, 32, 48, 3)] * 5
    assert [number_of(clip[0]) for clip in clips] == [0, 4, 9, 14, 18]
