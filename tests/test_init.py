import subprocess
import sys

import pytest

import starflow


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = starflow.no_such_name


@pytest.mark.parametrize("name", starflow.__all__)
def test_every_public_name_loads(name):
    assert name in dir(starflow)
    assert getattr(starflow, name).__name__ == name


def test_generating_needs_no_extra():
    code = """
import sys
for extra in ["omegaconf", "tensorboard", "scipy", "matplotlib"]:
    sys.modules[extra] = None  # importing it fails
import starflow, starflow.cli.generate
for name in starflow.__all__:
    getattr(starflow, name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
