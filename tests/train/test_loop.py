import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from starflow.errors import StarflowError, UsageError
from starflow.train import ema
from starflow.train.checkpoint import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from starflow.train.config import OptimizerConfig
from starflow.train.loop import create_state, lr_factor, micro_generator, optimizer_step, parameter_groups
from tiny_run import TinyStep, loop_config, tiny_run

TESTS = Path(__file__).parents[1]


def assert_same(one: TrainState, other: TrainState) -> None:
    assert one.step == other.step
    for mine, theirs in ((one.modules, other.modules), (one.ema, other.ema)):
        for name, module in mine.items():
            torch.testing.assert_close(module.state_dict(), theirs[name].state_dict(), rtol=0, atol=0)
    mine, theirs = one.optimizer.state_dict(), other.optimizer.state_dict()
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=0, atol=0)
    assert mine["param_groups"] == theirs["param_groups"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("uninterrupted"), {})


def test_a_killed_run_resumes_exactly(tmp_path, uninterrupted):
    command = [sys.executable, "-m", "tiny_run", str(tmp_path)]
    killed = subprocess.run(command, cwd=TESTS, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000004", "step-00000008"]
    resumed = tiny_run(tmp_path, {}, resume=True)
    assert_same(resumed, uninterrupted)


def test_an_interrupted_run_saves_its_step_and_resumes_exactly(tmp_path, uninterrupted, capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path, {5: signal.SIGINT})
    assert signal.getsignal(signal.SIGINT) is before
    assert "saved step 6" in capsys.readouterr().out
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000006"
    assert_same(tiny_run(tmp_path, {}, resume=True), uninterrupted)


def test_a_folder_with_a_run_is_not_started_over(tmp_path):
    tiny_run(tmp_path, {}, num_steps=1)
    with pytest.raises(UsageError, match="--resume"):
        tiny_run(tmp_path, {}, num_steps=1)


def test_two_workers_do_what_one_does(tmp_path):
    def run(workers: int) -> list[torch.Tensor]:
        seed = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(3, 3, generator=seed))
        module = nn.ParameterList([weight])
        state = create_state({"m": module}, parameter_groups("m", module, OptimizerConfig(lr=0.1)))
        config = loop_config(workers=workers)

        def step(step: int, micro_step: int, scale: float) -> dict[str, float]:
            inputs = torch.randn(5, 3, generator=micro_generator(config, step, micro_step))
            loss = (inputs @ weight - inputs).square().mean()
            (scale * loss).backward()
            return {"loss": loss.item(), "clips": 5.0}

        for _ in range(4):
            metrics = optimizer_step(state, step, config)
        assert metrics["clips"] == 10
        return [weight.detach()]

    torch.testing.assert_close(run(2), run(1), rtol=0, atol=0)


def test_learning_rate_warms_up_stays_and_decays():
    config = loop_config(num_steps=100, warmup_steps=10, decay_steps=50, final_lr_factor=0.1)
    assert lr_factor(0, config) == pytest.approx(0.1)
    assert lr_factor(9, config) == lr_factor(49, config) == 1
    assert lr_factor(75, config) == pytest.approx(0.1 + 0.9 / 2)
    assert lr_factor(100, config) == pytest.approx(0.1)
    assert all(lr_factor(step, config) >= lr_factor(step + 1, config) for step in range(9, 110))


def test_gradients_are_clipped_by_group():
    big, small = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [
        *parameter_groups("big", big, OptimizerConfig(clip_norm=1.0)),
        *parameter_groups("small", small, OptimizerConfig(clip_norm=1.0)),
    ]
    state = create_state({"big": big, "small": small}, groups)
    seen = {}
    real_step = state.optimizer.step

    def spy() -> None:
        for name, module in state.modules.items():
            seen[name] = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
        real_step()

    state.optimizer.step = spy

    def step(step: int, micro_step: int, scale: float) -> dict[str, float]:
        (scale * (1e3 * big.weight.sum() + 1e-3 * small.weight.sum() + 0 * (big.bias + small.bias).sum())).backward()
        return {"loss": 0.0, "clips": 1.0}

    metrics = optimizer_step(state, step, loop_config(accumulation=1))
    assert metrics["gradient_norm/big"] == pytest.approx(2e3)
    assert seen == {"big": pytest.approx(1, rel=1e-4), "small": pytest.approx(2e-3, rel=1e-4)}


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_is_an_error_and_leaves_the_weights_alone(where):
    module = nn.Linear(1, 1)
    state = create_state({"m": module}, parameter_groups("m", module, OptimizerConfig()))
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def step(step: int, micro_step: int, scale: float) -> dict[str, float]:
        loss = module(torch.ones(1, 1)).sum()
        (loss * (math.nan if where == "gradient" else 1)).backward()
        return {"loss": math.nan if where == "loss" else 1.0, "clips": 1.0}

    with pytest.raises(StarflowError, match=f"diverged at step 0.*{where}.*lower learning rate"):
        optimizer_step(state, step, loop_config())
    torch.testing.assert_close(module.state_dict(), before)


def test_what_is_logged(tmp_path):
    tiny_run(tmp_path, {}, log_every=4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "clips_per_second", "lr/model", "lr/model.muon", "gradient_norm/scale"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12]


class TestCheckpoint:
    def state(self) -> TrainState:
        model, scale = nn.Linear(4, 4), nn.Linear(4, 4)
        groups = parameter_groups("m", model, OptimizerConfig()) + parameter_groups("s", scale, OptimizerConfig())
        state = create_state({"model": model, "scale": scale}, groups)
        for _ in range(3):
            optimizer_step(state, TinyStep(model, scale, {}), loop_config())
        return state

    def test_round_trip(self, tmp_path):
        state, other = self.state(), self.state()
        path = save_checkpoint(state, tmp_path, keep=1)
        drawn = torch.rand(3)
        for module in other.modules.values():
            nn.init.zeros_(module.weight)
        other.step = 77
        load_checkpoint(other, path)
        assert_same(other, state)
        torch.testing.assert_close(torch.rand(3), drawn)
        assert all(file.suffix in (".safetensors", ".json") for file in path.iterdir())

    def test_only_the_newest_are_kept(self, tmp_path):
        state = self.state()
        for step in (5, 10, 100, 2000):
            state.step = step
            save_checkpoint(state, tmp_path, keep=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00002000"]

    def test_a_failed_save_leaves_nothing(self, tmp_path, monkeypatch):
        state = self.state()
        monkeypatch.setattr(json, "dumps", lambda value: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_checkpoint(state, tmp_path, keep=1)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-5])),
            ("ema.scale.safetensors", lambda path: path.unlink()),
            ("optimizer.safetensors", lambda path: path.write_bytes(b"")),
            ("state.json", lambda path: path.write_text("{")),
            ("state.json", lambda path: path.write_text("{}")),
        ],
    )
    def test_a_damaged_checkpoint(self, tmp_path, name, damage):
        path = save_checkpoint(self.state(), tmp_path, keep=1)
        damage(path / name)
        with pytest.raises(StarflowError, match="cannot resume from"):
            load_checkpoint(self.state(), path)

    def test_another_architecture(self, tmp_path):
        path = save_checkpoint(self.state(), tmp_path, keep=1)
        other = self.state()
        other.modules["model"] = nn.Linear(4, 5)
        with pytest.raises(StarflowError, match="size mismatch"):
            load_checkpoint(other, path)


def test_moving_average():
    module = nn.BatchNorm1d(2)
    shadows = ema.shadow_copy({"m": module})
    nn.init.constant_(module.weight, 3.0)
    module.running_mean.fill_(5.0)
    ema.update(shadows, {"m": module}, decay=0.9, step=1000)
    torch.testing.assert_close(shadows["m"].weight, torch.full((2,), 0.9 * 1 + 0.1 * 3))
    torch.testing.assert_close(shadows["m"].running_mean, torch.full((2,), 5.0))
    ema.update(shadows, {"m": module}, decay=0.9, step=0)  # early, the decay is 1 / 10
    torch.testing.assert_close(shadows["m"].weight, torch.full((2,), 0.1 * 1.2 + 0.9 * 3))
    assert not shadows["m"].weight.requires_grad
