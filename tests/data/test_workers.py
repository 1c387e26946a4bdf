import pytest

from clip_sources import Sleeper
from starflow.data.workers import workers
from starflow.errors import StarflowError


def test_results_come_in_order_and_not_far_ahead():
    for number in (0, 2):
        taken = []
        with workers(number, Sleeper()) as pool:
            results = pool.map(Sleeper.work, (taken.append(item) or item for item in range(20)))
            assert next(results) == (0, number > 0)
            assert len(taken) <= 1 + 2 * number
            assert [item for item, _ in results] == list(range(1, 20))


def test_a_killed_process_is_one_line():
    with workers(1, Sleeper()) as pool, pytest.raises(StarflowError, match="was killed: is there enough memory"):
        list(pool.map(Sleeper.die, range(3)))
