from pathlib import Path

import numpy as np
import pytest

import serving


@pytest.mark.parametrize(
    ("times", "delay", "stops"),
    [
        ([1, 2, 3, 4], 0, 0),  # a chunk of a second comes each second
        ([1, 3, 5, 7], 0, 3),
        ([1, 3, 5, 7], 1, 2),
        ([1, 3, 5, 7], 3, 0),
    ],
)
def test_a_player_stops_when_the_next_chunk_is_late(times: list[float], delay: float, stops: int):
    assert serving.underruns(np.array(times, float), np.full(4, 8), 8.0, delay) == stops


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
