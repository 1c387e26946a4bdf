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
def test_a_cancelled_video_leaves_the_disk(model: Path, capsys: pytest.CaptureFixture[str]):
    serving.main(["cancel", "--model", str(model), "--num-frames", "401", "--repeats", "1"])
    header, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert 0 < dict(zip(header, map(float, row), strict=True))["files_removed_s"] < 2


@pytest.mark.slow
def test_a_viewer_gets_the_stream_in_chunks(model: Path, capsys: pytest.CaptureFixture[str]):
    serving.main(["stream", "--model", str(model), "--num-frames", "41", "--repeats", "1"])
    header, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert dict(zip(header, map(float, row), strict=True))["first_chunk_s"] > 0
