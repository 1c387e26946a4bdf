import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from starflow.cli.benchmark import benchmark
from starflow.cli.main import run
from tiny_pipeline import tiny_pipeline

FIELDS = {
    "sampler",
    "num_frames",
    "batch_size",
    "latency_s",
    "speedup_over_sequential",
    "max_error",
    "max_residual",
    "sweeps",
    "evaluations_per_token",
    "peak_memory_mb",
    "time_to_first_frame_s",
}


def test_writes_rows_and_a_picture(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    options = ["--frames", "5,9", "--batch-sizes", "1", "--repeats", "1", "--device", "cpu"]
    files = ["--json", str(tmp_path / "rows.json"), "--plot", str(tmp_path / "rows.png")]
    result = CliRunner().invoke(
        benchmark, ["sampling", "--model", str(tmp_path / "model"), *options, *files], catch_exceptions=False
    )
    assert result.exit_code == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 8
    assert all(set(row) >= FIELDS for row in rows)
    assert Image.open(tmp_path / "rows.png").format == "PNG"
    lines = result.stdout.splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[1].split()[0] == "sampler"
    assert [line.split()[0] for line in lines[2:]] == [row["sampler"] for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "17,x"], "not a list of positive numbers"),
        (["--frames", ""], "not a list of positive numbers"),
        (["--batch-sizes", "0"], "not a list of positive numbers"),
        (["--repeats", "0"], "--repeats"),
        (["--frames", "16"], "frames"),
        (["--json", "nowhere/rows.json"], "does not exist"),
        (["--plot", "nowhere/rows.png"], "does not exist"),
    ],
)
def test_what_was_asked_wrongly(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert run(["benchmark", "sampling", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_fastest_windows_are_stored_with_the_model(tmp_path: Path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    before = json.loads((tmp_path / "model" / "model_index.json").read_text())
    options = ["--windows", "1,3", "--repeats", "1", "--device", "cpu", "--model", str(tmp_path / "model")]
    result = CliRunner().invoke(benchmark, ["windows", *options], catch_exceptions=False)
    assert json.loads((tmp_path / "model" / "model_index.json").read_text()) == before
    result = CliRunner().invoke(benchmark, ["windows", *options, "--save"], catch_exceptions=False)
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [[b, w] for b in ("deep", "shallow") for w in "13"]
    stored = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert {name for name in stored if stored[name] != before[name]} <= {"block_size", "shallow_block_size"}
    deep, shallow = stored["block_size"], stored["shallow_block_size"]
    assert lines[5] == f"fastest: {deep} in the deep block, {shallow} in the shallow ones"
    assert {deep, shallow} <= {1, 3}


def test_windows_are_stored_in_a_folder_only(capsys: pytest.CaptureFixture[str]):
    assert run(["benchmark", "windows", "--save"]) == 2
    assert "toyworld is none: give a folder" in capsys.readouterr().err


def test_a_projection_says_that_it_is_one(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    path = tmp_path / "projection.json"
    options = ["--model", str(tmp_path / "model"), "--device", "cpu", "--repeats", "1", "--json", str(path)]
    result = CliRunner().invoke(benchmark, ["projection", *options], catch_exceptions=False)
    assert "random weights in bfloat16" in result.stdout
    assert "projected" in result.stdout
    rows = json.loads(path.read_text())["rows"]
    assert [line.split()[0] for line in result.stdout.splitlines()[4:]] == [str(row["window"]) for row in rows]


def test_a_projection_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["benchmark", "projection", "--model", str(tmp_path / "nowhere")]) != 0
    assert "nowhere" in capsys.readouterr().err
    assert run(["benchmark", "projection", "--json", str(tmp_path / "nowhere" / "rows.json")]) == 2
    assert "does not exist" in capsys.readouterr().err
