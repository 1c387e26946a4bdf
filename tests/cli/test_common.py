import pytest

from starflow.cli import common
from starflow.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "extra", "module"),
    [
        (["train", "flow", "config.yaml"], "train", "omegaconf"),
        (["train", "vae", "config.yaml"], "train", "omegaconf"),
    ],
)
def test_the_error_of_a_missing_extra_says_how_to_install_it(arguments, extra, module, capsys, monkeypatch):
    monkeypatch.setattr(common, "find_spec", lambda name: None if name == module else object())
    assert run(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert module in error
    assert f".[{extra}]" in error
