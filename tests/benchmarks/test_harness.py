import json
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from starflow.errors import StarflowError, UsageError


def fail_with(error: Exception):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("ask for\n17 frames"), 2, "error: ask for 17 frames"),
        (StarflowError("NaN in the weights"), 1, "error: NaN in the weights"),
        (FileNotFoundError(2, "No such file", "model"), 1, "error: model: No such file"),
    ],
)
def test_a_users_error_is_one_line(error: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        harness.run(fail_with(error))
    assert stopped.value.code == status
    assert capsys.readouterr().err == f"{line}\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="a bug"):
        harness.run(fail_with(ValueError("a bug")))


def test_results_come_with_the_date_and_the_machine(tmp_path: Path):
    harness.write_results(tmp_path / "new" / "results.json", rows=[1, 2])
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    assert list(results) == ["date", "machine", "rows"]
    assert results["rows"] == [1, 2]
    assert results["machine"]["cores"] >= 1


def test_importing_the_harness_does_not_import_torch():
    code = "import sys, harness; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(harness.__file__).parent).returncode == 0
