from math import sqrt

import pytest
import torch

from starflow.evaluation.statistics import proportion, summary


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (187, 200), (1, 1)])
def test_the_confidence_interval_is_wilsons(correct: int, n: int):
    result = proportion([True] * correct + [False] * (n - correct))
    p, z = correct / n, 1.959963984540054
    center, half = p + z**2 / (2 * n), z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(center - half) / (1 + z**2 / n), (center + half) / (1 + z**2 / n)]
    assert result["value"] == p
    assert (result["correct"], result["n"]) == (correct, n)
    assert result["interval"] == pytest.approx(expected, abs=1e-12)


def test_unjudged_samples_do_not_count():
    assert proportion([True, None, False, None])["n"] == 2
    assert proportion([None]) == {"value": None, "correct": 0, "n": 0, "interval": None}


def test_the_summary_has_mean_deviation_and_standard_error():
    result = summary(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert result == pytest.approx({"mean": 3.0, "std": sqrt(14 / 3), "standard_error": sqrt(14 / 3) / 2, "n": 4})
    assert summary(torch.tensor([2.0])) == {"mean": 2.0, "std": None, "standard_error": None, "n": 1}
