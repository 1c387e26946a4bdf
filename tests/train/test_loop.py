import copy
import json
import math
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.tensorboard import SummaryWriter

from starflow.errors import StarflowError, UsageError
from starflow.train.checkpoint import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from starflow.train.config import OptimizerConfig
from starflow.train.loop import create_state, micro_generator, optimizer_step, parameter_groups
from tiny_run import TinyStep, loop_config, tiny_run

TESTS = Path(__file__).parents[1]


def assert_same(one: TrainState, other: TrainState) -> None:
    assert one.step == other.step == one.schedule.last_epoch == other.schedule.last_epoch
    for name, module in one.modules.items():
        torch.testing.assert_close(module.state_dict(), other.modules[name].state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(one.ema[name].state_dict(), other.ema[name].state_dict(), rtol=0, atol=0)
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


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_step_and_resumes_exactly(tmp_path, uninterrupted, capsys, signum):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path, {5: signum})
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "saved step 6" in capsys.readouterr().out
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000006"
    assert_same(tiny_run(tmp_path, {}, resume=True), uninterrupted)


def test_starting_over_in_the_folder_of_a_run_is_refused(tmp_path):
    tiny_run(tmp_path, {}, num_steps=1)
    with pytest.raises(UsageError, match="--resume"):
        tiny_run(tmp_path, {}, num_steps=1)


def test_two_workers_train_like_one(tmp_path):
    def run(workers: int) -> list[torch.Tensor]:
        seed = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(3, 3, generator=seed))
        module = nn.ParameterList([weight])
        config = loop_config(workers=workers)
        state = create_state({"m": module}, parameter_groups("m", module, OptimizerConfig(lr=0.1)), config)

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


class SumStep:
    """The loss is the sum of the module's output for an input of ones."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        loss = self.module(torch.ones(2, 4)).sum()
        (scale * loss).backward()
        return {"loss": loss.item(), "clips": 2.0}


def test_learning_rate_warms_up_stays_and_decays():
    config = loop_config(num_steps=100, warmup_steps=10, decay_steps=50, final_lr_factor=0.1)
    module = nn.Linear(4, 4)
    state = create_state({"m": module}, parameter_groups("m", module, OptimizerConfig(lr=2.0)), config)
    rates = [state.optimizer.param_groups[0]["lr"]]
    for _ in range(100):
        optimizer_step(state, SumStep(module), config)
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(2 * 0.1)
    assert rates[5] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert set(rates[10:51]) == {2.0}
    assert rates[75] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert rates[100] == pytest.approx(2 * 0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_gradients_are_clipped_by_group():
    big, small = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [
        *parameter_groups("big", big, OptimizerConfig(clip_norm=1.0)),
        *parameter_groups("small", small, OptimizerConfig(clip_norm=1.0)),
    ]
    config = loop_config(accumulation=1)
    state = create_state({"big": big, "small": small}, groups, config)
    seen = {}

    def record_norms(*arguments: object) -> None:
        for name, module in state.modules.items():
            seen[name] = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))

    state.optimizer.register_step_pre_hook(record_norms)

    def step(step: int, micro_step: int, scale: float) -> dict[str, float]:
        (scale * (1e3 * big.weight.sum() + 1e-3 * small.weight.sum() + 0 * (big.bias + small.bias).sum())).backward()
        return {"loss": 0.0, "clips": 1.0}

    metrics = optimizer_step(state, step, config)
    assert metrics["gradient_norm/big"] == pytest.approx(2e3)
    assert seen == {"big": pytest.approx(1, rel=1e-4), "small": pytest.approx(2e-3, rel=1e-4)}


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_is_an_error_and_leaves_the_weights_unchanged(where):
    module = nn.Linear(1, 1)
    state = create_state({"m": module}, parameter_groups("m", module, OptimizerConfig()), loop_config())
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def step(step: int, micro_step: int, scale: float) -> dict[str, float]:
        loss = module(torch.ones(1, 1)).sum()
        (loss * (math.nan if where == "gradient" else 1)).backward()
        return {"loss": math.nan if where == "loss" else 1.0, "clips": 1.0}

    with pytest.raises(StarflowError, match=f"diverged at step 0.*{where}.*lower learning rate"):
        optimizer_step(state, step, loop_config())
    torch.testing.assert_close(module.state_dict(), before)


def test_losses_learning_rates_and_gradient_norms_are_logged(tmp_path):
    tiny_run(tmp_path, {}, log_every=4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "clips_per_second", "lr/model", "lr/model.muon", "gradient_norm/scale"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12]


class TestCheckpoint:
    def state(self, lr: float = 1e-3) -> TrainState:
        model, scale = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4)
        model[1].weight = model[0].weight  # tied, like T5's embeddings
        config = OptimizerConfig(lr=lr)
        groups = parameter_groups("m", model, config) + parameter_groups("s", scale, config)
        state = create_state({"model": model, "scale": scale}, groups, loop_config())
        for _ in range(3):
            optimizer_step(state, TinyStep(model, scale, {}), loop_config())
        return state

    def test_a_checkpoint_restores_the_state(self, tmp_path):
        state, other = self.state(), self.state()
        path = save_checkpoint(state, tmp_path, keep=1)
        drawn = torch.rand(3)
        for module in other.modules.values():
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
        other.step = 77
        load_checkpoint(other, path)
        assert_same(other, state)
        torch.testing.assert_close(torch.rand(3), drawn)
        assert all(file.suffix in (".safetensors", ".json") for file in path.iterdir())

    def test_a_run_resumes_with_another_learning_rate(self, tmp_path):
        state, slower = self.state(lr=1e-3), self.state(lr=1e-4)
        load_checkpoint(slower, save_checkpoint(state, tmp_path, keep=1))
        for _ in range(2):
            rates = [each.optimizer.param_groups[0]["lr"] for each in (state, slower)]
            assert rates[0] == pytest.approx(10 * rates[1])
            state.schedule.step()
            optimizer_step(slower, TinyStep(*slower.modules.values(), {}), loop_config())

    def test_only_the_newest_checkpoints_are_kept(self, tmp_path):
        state = self.state()
        for step in (5, 10, 100, 2000):
            state.step = step
            save_checkpoint(state, tmp_path, keep=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00002000"]

    def test_a_failed_save_leaves_no_files(self, tmp_path, monkeypatch):
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
    def test_a_damaged_checkpoint_is_an_error(self, tmp_path, name, damage):
        path = save_checkpoint(self.state(), tmp_path, keep=1)
        damage(path / name)
        with pytest.raises(StarflowError, match="cannot resume from"):
            load_checkpoint(self.state(), path)

    def test_a_checkpoint_of_another_architecture_is_an_error(self, tmp_path):
        path = save_checkpoint(self.state(), tmp_path, keep=1)
        other = self.state()
        other.modules["scale"] = nn.Linear(4, 5)
        with pytest.raises(StarflowError, match="size mismatch"):
            load_checkpoint(other, path)


def ema_of(module: nn.Module, steps: int) -> TrainState:
    config = loop_config(ema_decay=0.5)
    state = create_state({"m": module}, parameter_groups("m", module, OptimizerConfig(lr=0.1)), config)
    for _ in range(steps):
        optimizer_step(state, SumStep(module), config)
    return state


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_the_moving_average_follows_its_formula():
    module = nn.Linear(4, 4)
    state = ema_of(module, 1)
    wanted = weights(module)  # the first step replaces the initial weights
    for step in range(1, 20):
        optimizer_step(state, SumStep(module), loop_config())
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = [decay * mean + (1 - decay) * weight for mean, weight in zip(wanted, weights(module), strict=True)]
    torch.testing.assert_close(state.ema["m"].shadow_params, wanted)


def test_averaged_weights_are_in_the_modules_until_the_end_of_the_context():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout().eval())
    state = ema_of(module, 5)
    trained = weights(module)
    with suppress(ZeroDivisionError), state.averaged_weights():
        torch.testing.assert_close(weights(module), state.ema["m"].shadow_params, rtol=0, atol=0)
        assert not torch.equal(module[0].weight, trained[0])
        assert not module.training and not module[0].training
        raise ZeroDivisionError
    torch.testing.assert_close(weights(module), trained, rtol=0, atol=0)
    assert module.training and module[0].training and not module[1].training


def test_there_may_be_no_previews(tmp_path, uninterrupted):
    def preview(state: TrainState, writer: SummaryWriter) -> None:
        raise AssertionError

    assert_same(tiny_run(tmp_path, {}, preview=preview, preview_every=0), uninterrupted)


def test_previews_use_averaged_weights_and_do_not_change_training(tmp_path, uninterrupted):
    seen = []

    def preview(state: TrainState, writer: SummaryWriter) -> None:
        model = state.modules["model"]
        assert not model.training
        torch.testing.assert_close(weights(model), state.ema["model"].shadow_params, rtol=0, atol=0)
        seen.append(state.step)

    assert_same(tiny_run(tmp_path, {}, preview=preview, preview_every=5), uninterrupted)
    assert seen == [5, 10, 12]


@pytest.fixture
def process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_sharded_modules_train_like_whole_ones():
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    sharded = copy.deepcopy(whole)
    mesh = distributed.init_device_mesh("cpu", (1,))
    fully_shard(sharded[0], mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    outputs = []
    for module in (whole, sharded):
        state = ema_of(module, 3)
        with state.averaged_weights():
            averaged = module(torch.ones(2, 4)).detach()  # a forward pass without a backward
        optimizer_step(state, SumStep(module), loop_config())
        outputs.append(torch.stack([averaged, module(torch.ones(2, 4)).detach()]))
    assert not torch.equal(*outputs[0])
    torch.testing.assert_close(*outputs)
