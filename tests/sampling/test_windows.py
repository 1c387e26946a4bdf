"""The fastest windows are stored for this machine, and the pipeline uses them."""

from pathlib import Path

import pytest
import torch

from starflow.errors import StarflowError
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.windows import fastest_window, store, stored_in
from tiny_pipeline import tiny_pipeline

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFLOW_CACHE", str(tmp_path / "cache"))


def test_the_window_is_that_of_the_largest_measured_batch_that_is_not_larger():
    flow = tiny_pipeline().flow
    assert fastest_window(flow, 1) is None
    store(flow, {2: 8, 16: 1})
    assert [fastest_window(flow, size) for size in (1, 2, 15, 16, 100)] == [None, 8, 8, 1, 1]


def test_another_precision_has_windows_of_its_own():
    flow = tiny_pipeline().flow
    store(flow, {1: 8})
    half = tiny_pipeline().flow.to(torch.bfloat16)
    assert fastest_window(half, 1) is None
    store(half, {1: 4})
    assert (fastest_window(flow, 1), fastest_window(half, 1)) == (8, 4)


def test_a_plan_has_the_measured_window_of_its_batch():
    pipeline = tiny_pipeline()
    assert pipeline.plan("a").sampling.solvers.deep.window == pipeline.config.block_size
    store(pipeline.flow, {1: 7, 2: 1})
    assert pipeline.plan("a").sampling.solvers.deep == SlidingWindow(7, pipeline.config.tolerance)
    assert pipeline.plan(["a", "b"]).sampling.solvers.deep.window == 1
    assert pipeline.plan("a", num_videos_per_prompt=3).sampling.solvers.deep.window == 1


def test_a_damaged_file_is_one_clear_error():
    flow = tiny_pipeline().flow
    store(flow, {1: 7})
    stored_in().write_text("{")
    with pytest.raises(StarflowError, match=r"windows\.json is damaged: delete it"):
        fastest_window(flow, 1)
