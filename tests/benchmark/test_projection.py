"""What a larger model would take: the passes that are timed are its own, and the arithmetic is what it says."""

import pytest
import torch

from starflow.benchmark.projection import SHARES, Projection, SweepCounts, count_sweeps, project
from starflow.errors import UsageError
from starflow.hardware.architecture import load_architecture
from tiny_pipeline import tiny_pipeline

CPU = torch.device("cpu")
COUNTS = SweepCounts(deep=[4, 3, 2, 1.5], shallow=3)
FRAME_TOKENS, NUM_LATENT_FRAMES = 4, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(path)
    return str(path)


def projected(folder: str, num_frames: int) -> Projection:
    return project(load_architecture(folder), COUNTS, num_frames, CPU, torch.float32, 1, lambda _: None)


def test_seconds_are_sweeps_times_their_price(folder: str):
    result = projected(folder, 13)
    assert result.num_tokens == NUM_LATENT_FRAMES * FRAME_TOKENS
    sequential, *windows = result.rows
    assert (sequential.window, sequential.sweeps) == (1, result.num_tokens)
    assert [row.window for row in windows] == [share * FRAME_TOKENS for share in SHARES]
    assert [row.sweeps for row in windows] == [NUM_LATENT_FRAMES * sweeps for sweeps in COUNTS.deep]
    for row in result.rows:
        assert row.deep_s == pytest.approx(row.sweeps * row.sweep_s)
        assert row.seconds == pytest.approx(row.deep_s + row.shallow_s)
    assert result.floor_s > 0
    assert len({row.shallow_s for row in windows}) == 1


def test_a_window_is_no_longer_than_the_clip(folder: str):
    assert projected(folder, 1).rows[-1].window == FRAME_TOKENS


def test_impossible_lengths_are_refused(folder: str):
    with pytest.raises(UsageError, match="frames"):
        projected(folder, 12)


def test_sweeps_are_counted_per_latent_frame_and_per_block():
    counts = count_sweeps(tiny_pipeline(), seed=0, say=lambda _: None)
    assert counts.deep[0] == FRAME_TOKENS  # a quarter of a frame is one token here
    assert all(1 / 3 <= sweeps <= FRAME_TOKENS for sweeps in counts.deep)
    assert 1 <= counts.shallow <= FRAME_TOKENS + 1
