import subprocess

import pytest

import startup


def test_a_process_is_measured_to_its_end():
    code = "import time; print('first', flush=True); time.sleep(0.2); sum(range(3_000_000))"
    seconds = startup.measure(("-c", code))
    assert 0 < seconds.first_output < seconds.wall - 0.2
    assert seconds.cpu > 0


def test_a_command_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        startup.measure(("-c", "raise SystemExit(3)"))


def test_imports_are_added_up_by_package():
    seconds = startup.import_seconds(("-c", "import json.decoder"))
    assert seconds["json"] > 0
    assert "torch" not in seconds
