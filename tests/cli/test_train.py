import pytest

from starflow.cli.main import run


@pytest.mark.parametrize("command", ["vae", "text", "flow"])
@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("loop: {num_step: 3}", [], "did you mean 'loop.num_steps'"),
        ("loop: {num_steps: many}", [], "loop.num_steps"),
        ("output: runs/a", ["loop.seeed=1"], "did you mean 'loop.seed'"),
        ("output: runs/a", ["seed"], "write key=value"),
        (None, [], "no config file"),
    ],
)
def test_bad_configs_are_usage_errors_in_one_line(command, text, arguments, message, tmp_path, capfd):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    assert run(["train", command, str(path), *arguments]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_names_what_can_be_trained(capfd):
    assert run(["train", "--help"]) == 0
    shown = capfd.readouterr().out
    assert all(name in shown for name in ("vae", "text", "flow"))
