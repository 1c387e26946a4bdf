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
    options = ["--clients", "4", "--minutes", "0.4", "--repeats", "2", "--num-frames", "1", "--keep-mib", "0.03"]
    serving.main(["soak", "--model", str(model), *options, "-o", str(path)])
    first, second = json.loads(path.read_text())["rows"]
    for row in (first, second):
        assert row["accepted"] == row["completed"] == row["made"] > 0
        assert row["listed"] == row["folders"] > 0
        assert row["videos_mib"] <= 0.03
    assert first["made"] + second["made"] > second["listed"]  # the server has removed some
    assert second["memory_mib"] < 1.05 * first["memory_mib"]
    assert second["database_mib"] < 5  # SQLite's log has at most 4 MiB


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
