from itertools import pairwise

import pytest

from starflow.media.timing import Timed, at_rate, constant_rate


def shown(times: list[float], fps: float, end: float | None = None) -> list[int]:
    ends = [*times[1:], times[-1] if end is None else end]
    return [frame.item for frame in at_rate([Timed(*each) for each in zip(times, ends, range(99), strict=False)], fps)]


def test_the_frame_shown_at_each_time_is_taken():
    assert shown([0, 0.1, 2.0, 2.1], 2) == [0, 1, 1, 1, 2]
    assert shown([0, 0.1, 2.0, 2.1], 10) == [0, *[1] * 19, 2, 3]


def test_a_frame_whose_time_is_rounded_up_is_not_missed():
    assert shown([0, 0.042, 0.083, 0.125], 24) == [0, 1, 2, 3]
    assert shown([0, 0.12, 0.26, 0.33, 0.5], 8) == [0, 1, 2, 3, 4]


def test_a_last_frame_that_is_shown_longer_counts_several_times():
    assert shown([0, 0.125, 0.25], 8, end=0.375) == [0, 1, 2]
    assert shown([0, 0.125, 0.25], 8, end=0.75) == [0, 1, 2, 2, 2, 2]
    assert shown([0], 8, end=0.5) == [0] * 4
    assert shown([0], 8) == [0]
    assert list(at_rate([], 8)) == []


def test_frames_are_given_as_soon_as_they_are_known():
    def stream():
        for index in range(10):
            read.append(index)
            yield Timed(index / 8, (index + 1) / 8, index)

    read: list[int] = []
    assert [next(frames).item for frames in [at_rate(stream(), 4)] for _ in range(2)] == [0, 2]
    assert read == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("ends", "tick", "fps", "expected"),
    [
        ([0.06, 0.12, 0.19, 0.25], 0.01, 16, [0, 1, 2, 3]),  # GIF rounds to 10 ms
        ([0.125, 0.375, 0.5], 0.01, 8, [0, 1, 1, 2]),  # and merges equal frames
        ([1001 / 30000 * (i + 1) for i in range(12)], 1e-5, 30000 / 1001, list(range(12))),
        ([0.12, 0.26, 0.36, 0.5, 0.62, 0.77, 0.86, 1.005], 0.001, 8, [0, 1, 2, 3, 4, 5, 6, 7]),  # a recorder's jitter
    ],
)
def test_a_constant_rate_is_found(ends: list[float], tick: float, fps: float, expected: list[int]):
    frames = [Timed(start, end, index) for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False))]
    assert constant_rate(frames, tick) == (expected, pytest.approx(fps))


def test_a_hold_between_two_rates_is_kept():
    times = [*(i / 8 for i in range(8)), *(2.8751 + i / 24 for i in range(9))]
    frames = [Timed(start, end, index) for index, (start, end) in enumerate(pairwise([*times, times[-1]]))]
    items, fps = constant_rate(frames, 1e-5)
    assert fps == 24
    assert len(items) == 78
    assert items.count(7) == 48
    assert items[-9:] == list(range(8, 17))
