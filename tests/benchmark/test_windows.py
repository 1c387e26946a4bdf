"""How window sizes are measured and compared, on a tiny pipeline."""

from starflow.benchmark.windows import WindowRow, fastest, measure_windows
from tiny_pipeline import tiny_pipeline


def test_every_window_is_measured_in_both_kinds_of_blocks():
    said: list[str] = []
    rows = measure_windows(tiny_pipeline(), [1, 4], repeats=2, seed=0, say=said.append)
    assert [(row.blocks, row.window) for row in rows] == [("deep", 1), ("deep", 4), ("shallow", 1), ("shallow", 4)]
    assert min(row.seconds for row in rows) > 0
    one, four, shallow_one, _ = rows
    assert (one.sweeps, one.evaluations_per_token) == (12, 1)  # 3 latent frames of 2×2 tokens
    assert (shallow_one.sweeps, shallow_one.evaluations_per_token) == (8, 1)  # 2 blocks of 4 tokens, frames together
    assert four.sweeps <= 12
    assert four.evaluations_per_token > 1
    assert all(row.sweep_over_pass > 0 for row in rows)
    assert len(said) == 4


def test_the_fastest_is_told_by_its_seconds_among_blocks_of_its_kind():
    rows = [
        WindowRow("deep", 1, 0.3, 1, 1.0, 1.1),
        WindowRow("deep", 8, 0.2, 9, 1.0, 1.1),
        WindowRow("shallow", 1, 0.1, 1, 1.0, 1.1),
        WindowRow("shallow", 8, 0.4, 1, 1.0, 1.1),
    ]
    assert fastest(rows, "deep") == 8
    assert fastest(rows, "shallow") == 1
