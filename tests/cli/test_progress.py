import sys

import pytest

from starflow.cli import progress
from starflow.cli.progress import StageLines, with_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets: its last entry is the time."""
    times = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: times[-1])
    return times


def test_without_a_terminal_each_item_has_a_line_with_the_time_left(clock: list[float], capsys):
    for item in with_progress("abc", str.upper):
        clock.append(clock[-1] + {"a": 10, "b": 20, "c": 30}[item])
    assert capsys.readouterr().err.splitlines() == [
        "making A (1 of 3)",
        "making B (2 of 3, about 00:20 left)",
        "making C (3 of 3, about 00:15 left)",
    ]


def test_one_item_is_not_counted(capsys: pytest.CaptureFixture[str]):
    assert list(with_progress(["a"], str)) == ["a"]
    assert capsys.readouterr().err == "making a\n"


@pytest.mark.parametrize(("items", "shown"), [("abc", True), ("a", False)])
def test_on_a_terminal_several_items_have_a_bar(items: str, shown: bool, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "".join(with_progress(items, str)) == items
    error = capsys.readouterr().err
    assert ("0/3" in error) == shown
    assert "making" not in error


def test_a_stage_has_a_line_at_its_beginning_and_every_ten_seconds(clock: list[float], capsys):
    lines = StageLines("a.mp4")
    for second, stage in enumerate(["sampling"] * 12 + ["decoding"] * 2):
        clock.append(second)
        lines(stage, second, 20)
    assert capsys.readouterr().err.splitlines() == [
        "a.mp4: sampling 0 of 20",
        "a.mp4: sampling 10 of 20",
        "a.mp4: decoding 12 of 20",
    ]


def test_stages_have_no_lines_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    StageLines("a.mp4")("sampling", 1, 2)
    assert capsys.readouterr().err == ""
