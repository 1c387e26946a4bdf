"""Means with their standard errors, and proportions with their confidence intervals, ready to be written as JSON."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

from scipy.stats import binomtest
from torch import Tensor

CONFIDENCE = 0.95


def proportion(outcomes: Iterable[bool | None]) -> dict[str, Any]:
    """How many of the outcomes that were judged (not None) are True, with Wilson's interval.

    Returns:
        `value`, `correct` out of `n`, and `interval`, [low, high]; `value` and `interval` are None if `n` is 0.
    """
    judged = [outcome for outcome in outcomes if outcome is not None]
    correct, n = sum(judged), len(judged)
    if not n:
        return {"value": None, "correct": 0, "n": 0, "interval": None}
    interval = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": correct / n, "correct": correct, "n": n, "interval": [float(interval.low), float(interval.high)]}


def summary(values: Tensor) -> dict[str, Any]:
    """Mean, standard deviation, standard error of the mean of values `(n,)`; the latter two are None if `n` is 1."""
    values, n = values.double(), len(values)
    std = values.std().item() if n > 1 else None
    return {
        "mean": values.mean().item(),
        "std": std,
        "standard_error": None if std is None else std / sqrt(n),
        "n": n,
    }
