"""`pytest -m gpu`, each outcome written down as it comes."""

import os
import sys
from pathlib import Path

import pytest

from measure import Results

ROOT = Path(__file__).parents[3]


class _Outcomes:
    """A plugin of pytest's that adds a row for each test."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._add(report, report.duration)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":  # a module that cannot be imported
            self._add(report, 0.0)

    def _add(self, report: pytest.TestReport | pytest.CollectReport, duration: float) -> None:
        message = "" if report.outcome == "passed" else str(report.longrepr)[-500:]
        self.results.add(
            "tests", test=report.nodeid, outcome=report.outcome, seconds=round(duration, 3), message=message
        )


def measure(results: Results, tiny: bool) -> None:
    """Run the tests on the device; every one that fails, and a run without any, is a failure."""
    os.chdir(ROOT)
    os.environ["STARFLOW_TEST_DEVICE"] = results.device.type
    sys.path.insert(0, str(ROOT / "tests"))
    # without the project's own settings, which ask for a certain version of pytest
    options = ["-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider"]
    options += ["--continue-on-collection-errors", "-m", "gpu", "-q", "--durations=15", "tests/gpu"]
    pytest.main(options, plugins=[_Outcomes(results)])
    outcomes = [row["outcome"] for row in results.rows]
    if "passed" not in outcomes or "failed" in outcomes:
        raise AssertionError(f"{outcomes.count('failed')} of {len(outcomes)} tests failed")
