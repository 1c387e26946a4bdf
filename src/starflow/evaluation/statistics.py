"""Means with standard errors, and proportions and other statistics with confidence intervals, as JSON values."""

from collections.abc import Callable, Iterable
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000


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


def bootstrap(statistic: Callable[[NDArray[np.intp]], float], groups: NDArray[Any]) -> dict[str, Any]:
    """A statistic of `n` rows, with the percentile interval of the bootstrap (Efron 1979).

    Rows of one group, such as the frames of one episode, depend on each other. So whole groups are drawn.

    Args:
        statistic: maps the numbers of some rows, at least one, to a value.
        groups: of each row, `(n,)`.

    Returns:
        `value`, None if there is no row or the value is not finite; `interval` `[low, high]`, None if there are fewer
        than two groups, or the value of a draw is not finite; `n`; and `num_groups`.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(group_of_row == number) for number in range(len(names))]
    result: dict[str, Any] = {"value": None, "interval": None, "n": len(groups), "num_groups": len(rows)}
    value = float(statistic(np.arange(len(groups)))) if rows else float("nan")
    if not isfinite(value):
        return result
    result["value"] = value
    if len(rows) > 1:
        rng = np.random.default_rng(0)
        draws = [
            statistic(np.concatenate([rows[number] for number in rng.integers(len(rows), size=len(rows))]))
            for _ in range(NUM_RESAMPLES)
        ]
        low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        result["interval"] = [float(low), float(high)] if isfinite(low) and isfinite(high) else None
    return result


def bootstrap_mean(values: NDArray[Any], groups: NDArray[Any]) -> dict[str, Any]:
    """`bootstrap` of the mean of values `(n,)`."""
    return bootstrap(lambda rows: float(values[rows].mean()), groups)
