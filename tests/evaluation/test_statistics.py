from math import sqrt

import numpy as np
import pytest
import torch

from starflow.evaluation.statistics import bootstrap, bootstrap_mean, proportion, summary


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


def test_the_bootstrap_of_independent_rows_has_the_interval_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 400)
    result = bootstrap_mean(values, np.arange(400))
    error = values.std() / sqrt(400)
    assert result["value"] == pytest.approx(values.mean())
    assert result["interval"] == pytest.approx([values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.05)
    assert (result["n"], result["num_groups"]) == (400, 400)
    assert bootstrap_mean(values, np.arange(400)) == result  # the same draws


def test_the_bootstrap_draws_whole_groups():
    groups = np.repeat(np.arange(10), 40)
    values = groups.astype(float)  # rows of a group are equal, so 400 rows tell no more than 10
    low, high = bootstrap_mean(values, groups)["interval"]
    assert high - low > 4 * np.diff(bootstrap_mean(values, np.arange(400))["interval"])


def test_what_cannot_be_estimated_is_none():
    one = bootstrap_mean(np.ones(3), np.array(["a", "a", "a"]))
    assert (one["value"], one["interval"], one["num_groups"]) == (1, None, 1)
    none = bootstrap_mean(np.ones(0), np.ones(0))
    assert (none["value"], none["interval"], none["n"]) == (None, None, 0)
    assert bootstrap(lambda rows: float("nan"), np.arange(3))["value"] is None
