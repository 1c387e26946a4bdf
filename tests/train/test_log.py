import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from starflow.errors import UsageError
from starflow.train.config import OptimizerConfig
from starflow.train.log import Log
from starflow.train.state import Trained, create_state
from tiny_run import loop_config, tiny_run


def test_speeds_are_sums_over_the_time_and_other_metrics_are_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("starflow.train.log.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("starflow.train.log.peak_flops", lambda device: 40.0)
    config = loop_config()
    state = create_state({"m": Trained(nn.Linear(2, 2), OptimizerConfig())}, config)
    log = Log(tmp_path, state, config)
    for loss in (1.0, 3.0):
        log.add({"loss": loss, "clips": 8.0, "tokens": 64.0, "flops": 40.0, "data_seconds": 0.5})
    log.add({"loss": 5.0, "clips": 8.0, "tokens": 64.0, "flops": 40.0, "data_seconds": 0.5, "loss/image": 7.0})
    now[0] += 6
    log.flush(state)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]}
    assert (values["loss"], values["loss/image"]) == (3.0, 7.0)
    assert (values["speed/clips_per_second"], values["speed/tokens_per_second"]) == (4.0, 32.0)
    assert (values["speed/data_wait"], values["speed/model_flops_utilisation"]) == (0.25, 0.5)
    assert 0.01 < values["memory_gib"] < 1000


def test_a_project_on_weights_and_biases_gets_the_same_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: started.append(given)))
    tiny_run(tmp_path / "mine", {}, num_steps=1, wandb="videos")
    assert started == [{"project": "videos", "name": "mine", "dir": tmp_path / "mine", "sync_tensorboard": True}]


def test_weights_and_biases_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"loop\.wandb needs the package wandb"):
        tiny_run(tmp_path, {}, num_steps=1, wandb="videos")


def test_off_a_terminal_progress_is_a_line_every_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = [100.0]
    monkeypatch.setattr("starflow.train.log.time.perf_counter", lambda: now[0])
    config = loop_config(num_steps=5)
    state = create_state({"m": Trained(nn.Linear(2, 2), OptimizerConfig())}, config)
    log = Log(tmp_path, state, config)
    for state.step in range(1, 6):
        now[0] += 20
        log.add({"loss": state.step, "clips": 8.0})
        log.flush(state)
    log.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" left: ")[0] for line in lines] == [
        "step 1 of 5, 01:20",
        "step 3 of 5, 00:40",
        "step 5 of 5, 00:00",
    ]
    assert lines[0].endswith("loss=1, lr=1e-05, clips/s=0.4")
