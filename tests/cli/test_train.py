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
    reading, error = capfd.readouterr().err.splitlines()
    assert reading == f"reading {path} ..."
    assert message in error


def test_help_names_what_can_be_trained(capfd):
    assert run(["train", "--help"]) == 0
    shown = capfd.readouterr().out
    assert all(name in shown for name in ("vae", "text", "flow"))


def test_the_device_replaces_that_of_the_config(tmp_path, monkeypatch):
    from starflow.train import vae

    used = []
    monkeypatch.setattr(vae, "train_vae", lambda config, resume: used.append(config.loop.device))
    path = tmp_path / "config.yaml"
    path.write_text("{output: run, data: {source: folder}, phases: [], loop: {num_steps: 1, decay_steps: 0}}")
    assert run(["train", "vae", str(path)]) == 0
    assert run(["train", "vae", str(path), "--device", "cuda:1"]) == 0
    assert used == ["cpu", "cuda:1"]
