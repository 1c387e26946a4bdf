"""Means with standard errors and proportions with confidence intervals, as JSON values."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

from scipy.stats import binomtest
from torch import Tensor

CONFIDENCE = 0.95


def proportion(outcomes: Iterable[bool | None]) -> dict[str, Any]:
    """The proportion of True among the outcomes that are not None, with Wilson's interval.

    Returns:
        `value`, which is `correct` divided by `n`, and `interval` `[low, high]`; both are None if `n` is 0.
    """
    judged = [outcome for outcome in outcomes if outcome is not None]
    correct, n = sum(judged), len(judged)
    if not n:
        return {"value": None, "correct": 0, "n": 0, "interval": None}
    interval = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": correct / n, "correct": correct, "n": n, "interval": [float(interval.low), float(interval.high)]}


def summary(values: Tensor) -> dict[str, Any]:
    """The `mean`, `std`, `standard_error` and `n` of values `(n,)`. `std` and `standard_error` are None if `n` is 1."""
    values, n = values.double(), len(values)
    std = values.std().item() if n > 1 else None
    return {
        "mean": values.mean().item(),
        "std": std,
        "standard_error": None if std is None else std / sqrt(n),
        "n": n,
    }
