"""A simulated viewer of a stream."""

import numpy as np
import pytest

from viewer import underruns, viewed


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
    assert underruns(np.array(times, float), np.full(4, 8), 8.0, delay) == stops


def test_the_viewer_waits_for_the_first_chunk_and_between_chunks():
    row = viewed([(0.25, 1), (0.5, 4), (1.5, 4)], fps=8.0)
    assert (row["first_chunk_s"], row["gap_p50_s"]) == (0.25, 0.625)
    assert row["real_time_factor"] == 1.5 / (9 / 8)
    assert [row[f"stops_after_{delay}_s"] for delay in ("0", "0.5", "1")] == [2, 1, 0]
