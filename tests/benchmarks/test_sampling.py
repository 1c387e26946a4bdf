"""The samplers side by side, on a tiny pipeline: the rows, the options, the picture."""

import json
from dataclasses import fields
from math import isinf
from pathlib import Path

import pytest
import torch
from PIL import Image

import harness
import sampling
from sampling import STAGES, Row, check, measure, samplers
from starflow.sampling import windows
from tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    pipeline = tiny_pipeline(block_size=4)
    first = measure(pipeline, 9, 2, repeats=1, seed=0, machine="a machine")
    return first + measure(pipeline, 13, 1, repeats=1, seed=0, machine="a machine")  # longer than the model's window


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


def test_sequential_sampling_is_exact_and_the_sliding_window_is_within_its_tolerance(rows: list[Row]):
    for row in rows:
        if row.sampler == "sequential":
            # 4 tokens for each latent frame; encoding the context of a rolling window is not a sweep
            assert row.sweeps == {9: 12, 13: 16}[row.num_frames]
            assert (row.max_error, row.evaluations_per_token, row.speedup_over_sequential) == (0, 1, 1)
            assert row.max_residual < 1e-4
        if row.sampler == "sliding":
            assert 0 < row.max_error < 0.1
            assert 0 < row.max_residual <= 1e-2 + 1e-5
    fastest = min(row.latency_s for row in rows[:4] if row.sampler.startswith("published"))
    assert rows[3].speedup_over_published == pytest.approx(fastest / rows[3].latency_s)


def test_the_residual_is_measured_on_the_result():
    """It is not the solver's own residual: the published solver reports none, but leaves some."""
    pipeline = tiny_pipeline()
    plan = pipeline.plan("a red circle moves right", generator=torch.Generator().manual_seed(0)).sampling
    plan.solvers = samplers(pipeline, 1)["published-32"]
    accuracy = check(pipeline.flow, plan)
    assert plan.guidance_weight
    assert isinf(accuracy.deep.max_residual)
    assert 1e-4 < accuracy.max_residual < 1
    plan.guidance_weight = 0.0
    accuracy = check(pipeline.flow, plan)
    z = pipeline.flow.encode(accuracy.latents, plan.text).z
    assert (z - plan.noise).abs().max().item() == pytest.approx(accuracy.max_residual, rel=0.5)


def test_the_sliding_window_has_the_size_that_the_pipeline_chooses_for_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STARFLOW_CACHE", str(tmp_path))
    pipeline = tiny_pipeline(block_size=4)
    windows.store(pipeline.flow, {2: 3})
    sizes = [samplers(pipeline, batch_size)["sliding"].deep.window for batch_size in (1, 2)]
    assert sizes == [4, 3]


def test_the_script_writes_a_table_and_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--frames", "5", "--batch-sizes", "1", "--repeats", "1", "--device", "cpu", "--model", str(model)]
    sampling.main([*options, "--json", str(tmp_path / "new" / "rows.json"), "--plot", str(tmp_path / "rows.png")])
    rows = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert len(rows) == 4
    assert all(set(row) == {field.name for field in fields(Row)} for row in rows)
    picture = Image.open(tmp_path / "rows.png")
    assert picture.format == "PNG" and picture.width > 500
    machine, header, *lines = capsys.readouterr().out.splitlines()
    assert machine == rows[0]["machine"]
    assert header.split()[0] == "sampler"
    assert [line.split()[:2] for line in lines] == [[row["sampler"], str(row["num_frames"])] for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "17", "x"], "'x' is not a positive whole number"),
        (["--frames"], "expected at least one argument"),
        (["--batch-sizes", "0"], "'0' is not a positive whole number"),
        (["--repeats", "0"], "'0' is not a positive whole number"),
        (["--frames", "16"], "frames"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        harness.run(lambda: sampling.main([*options, "--device", "cpu"]))
    assert stopped.value.code == (1 if "nowhere" in options else 2)
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
