"""The rows of the benchmark, on a tiny pipeline; clocks; the picture."""

import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from starflow.benchmark.clocks import PeakMemory, Stopwatch
from starflow.benchmark.picture import draw
from starflow.benchmark.sampling import STAGES, Row, as_json, check, measure, samplers
from tiny_pipeline import tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    pipeline, said = tiny_pipeline(block_size=4), []
    rows = []
    for num_frames, batch_size in ((9, 2), (13, 1)):  # the second one is longer than the model's window
        rows += measure(pipeline, num_frames, batch_size, 1, 0, "a machine", said.append)
    assert len(said) == 2 * 2 * len(samplers(pipeline))
    return rows


def test_each_sampler_has_a_row(rows: list[Row]):
    names = ["sequential", "published-32", "published-64", "sliding"]
    assert [row.sampler for row in rows] == 2 * names
    assert [(row.num_frames, row.batch_size) for row in rows] == 4 * [(9, 2)] + 4 * [(13, 1)]
    for row in rows:
        assert row.latency_s == pytest.approx(row.stages_s["deep"] + row.stages_s["shallow"])
        assert set(row.stages_s) == set(STAGES)
        assert min(row.stages_s.values()) > 0
        assert row.clip_s == pytest.approx(sum(row.stages_s.values()))
        assert row.time_to_first_frame_s > 0
        assert row.peak_memory_mb > 1
        assert row.sweep_overhead >= 1


def test_sequential_is_the_reference_and_ours_is_within_its_tolerance(rows: list[Row]):
    for row in rows:
        if row.sampler == "sequential":
            # a latent frame has 4 tokens; what a rolling window encodes again is no sweep
            assert row.sweeps == {9: 12, 13: 16}[row.num_frames]
            assert (row.max_error, row.evaluations_per_token, row.speedup_over_sequential) == (0, 1, 1)
            assert row.max_residual < 1e-4
        if row.sampler == "sliding":
            assert 0 < row.max_error < 0.1
            assert 0 < row.max_residual <= 1e-2 + 1e-5
    fastest = min(row.latency_s for row in rows[:4] if row.sampler.startswith("published"))
    assert rows[3].speedup_over_published == pytest.approx(fastest / rows[3].latency_s)


def test_the_residual_is_measured_on_what_comes_out():
    """Not taken from the solver: the published one measures none, and leaves some."""
    pipeline = tiny_pipeline()
    plan = pipeline.plan("a red circle moves right", generator=torch.Generator().manual_seed(0))
    plan.solvers = samplers(pipeline)["published-32"]
    accuracy = check(pipeline, plan)
    assert plan.guidance_scale
    assert accuracy.deep.max_residual == 0
    assert 1e-4 < accuracy.max_residual < 1
    plan.guidance_scale = 0.0
    accuracy = check(pipeline, plan)
    z = pipeline.flow.encode(accuracy.latents, plan.text).z
    assert (z - plan.noise).abs().max().item() == pytest.approx(accuracy.max_residual, rel=0.5)


def test_rows_as_json_and_as_a_picture(rows: list[Row], tmp_path: Path):
    assert as_json(rows)[0]["sampler"] == "sequential"
    draw(rows, tmp_path / "rows.png")
    assert Image.open(tmp_path / "rows.png").width > 500


def test_a_stage_does_not_count_what_it_waits_for():
    watch = Stopwatch(CPU)

    def inner():
        for _ in range(3):
            time.sleep(0.02)
            yield 1

    def outer(items):
        for item in items:
            time.sleep(0.005)
            yield item

    assert sum(watch.timed("outer", outer(watch.timed("inner", inner())))) == 3
    assert watch.seconds["inner"] >= 0.06
    assert 0.015 <= watch.seconds["outer"] < watch.seconds["inner"]


def test_a_stage_may_become_another():
    watch = Stopwatch(CPU)
    with watch.stage("deep"):
        time.sleep(0.01)
        watch.switch("shallow")
        time.sleep(0.03)
    assert 0.01 <= watch.seconds["deep"] < 0.03 <= watch.seconds["shallow"]


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak of a process's memory"
)
def test_peak_memory_is_that_since_the_reset():
    memory = PeakMemory(CPU)
    memory.reset()
    before = memory.mb()
    torch.ones(100_000_000, dtype=torch.uint8)
    assert 90 < memory.mb() - before < 300
    memory.reset()
    assert memory.mb() < before + 60
