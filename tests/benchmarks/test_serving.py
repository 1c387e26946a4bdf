import json
from pathlib import Path

import pytest

import serving


@pytest.mark.slow
def test_a_server_under_load_makes_every_job_once(model: Path, capsys: pytest.CaptureFixture[str]):
    serving.main(["load", "--model", str(model), "--clients", "8", "--jobs", "32", "--num-frames", "1"])
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[:3] == ["accepted", "completed", "made"]
    assert [row[:3] for row in rows] == [["8", "8", "8"]] * 4


@pytest.mark.slow
def test_neither_memory_nor_the_data_of_a_server_that_is_always_busy_grow(model: Path, tmp_path: Path):
    path = tmp_path / "soak.json"
    options = ["--clients", "8", "--minutes", "0.3", "--repeats", "3", "--num-frames", "41"]
    serving.main(["soak", "--model", str(model), *options, "-o", str(path)])
    first, second, third = json.loads(path.read_text())["rows"]
    for row in (first, second, third):
        assert row["accepted"] == row["completed"] == row["made"] > 20
        assert row["listed"] == row["folders"] > 0
        assert row["videos_mib"] <= serving.KEPT_MIB
    assert third["made"] + second["made"] > second["listed"]  # the server has removed some
    assert third["memory_mib"] < 1.05 * first["memory_mib"]
    assert third["database_mib"] < 1.5 * first["database_mib"]


@pytest.mark.slow
def test_a_cancelled_video_leaves_the_disk(model: Path, capsys: pytest.CaptureFixture[str]):
    serving.main(["cancel", "--model", str(model), "--num-frames", "401", "--repeats", "1"])
    header, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert 0 < dict(zip(header, map(float, row), strict=True))["files_removed_s"] < 2


@pytest.mark.slow
def test_a_viewer_gets_the_stream_in_chunks(model: Path, capsys: pytest.CaptureFixture[str]):
    serving.main(["stream", "--model", str(model), "--num-frames", "41", "--repeats", "1"])
    header, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert dict(zip(header, map(float, row), strict=True))["first_chunk_s"] > 0
