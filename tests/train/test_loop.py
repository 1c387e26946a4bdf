import math
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from starflow.errors import StarflowError, UsageError
from starflow.train.checkpoint import list_checkpoints
from starflow.train.config import OptimizerConfig
from starflow.train.loop import mean_metrics, micro_generator, optimizer_step
from starflow.train.state import Trained, TrainState, create_state
from tiny_run import assert_same, loop_config, tiny_run

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("uninterrupted"), {})


def test_a_killed_run_resumes_exactly(tmp_path, uninterrupted):
    command = [sys.executable, "-m", "tiny_run", str(tmp_path)]
    killed = subprocess.run(command, cwd=TESTS, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    # That of step 8 may still have been in writing.
    assert list_checkpoints(tmp_path / "checkpoints")[0].name == "step-00000004"
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
        state = create_state({"m": Trained(module, OptimizerConfig(lr=0.1))}, config)

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
    state = create_state({"m": Trained(module, OptimizerConfig(lr=2.0))}, config)
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
    config = loop_config(accumulation=1)
    optimizer = OptimizerConfig(clip_norm=1.0)
    state = create_state({"big": Trained(big, optimizer), "small": Trained(small, optimizer)}, config)
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
    state = create_state({"m": Trained(module, OptimizerConfig())}, loop_config())
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
    assert {
        "loss",
        "skipped",
        "speed/clips_per_second",
        "memory_gib",
        "lr/model",
        "lr/model.muon",
        "gradient_norm/scale",
    } <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12]


def ema_of(module: nn.Module, steps: int) -> TrainState:
    config = loop_config(ema_decay=0.5)
    state = create_state({"m": Trained(module, OptimizerConfig(lr=0.1))}, config)
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


def test_averaged_modules_have_the_moving_averages_and_are_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    state = ema_of(module, 5)
    trained = weights(module)
    averaged = state.averaged()["m"]
    torch.testing.assert_close(weights(averaged), state.ema["m"].shadow_params, rtol=0, atol=0)
    torch.testing.assert_close(weights(module), trained, rtol=0, atol=0)
    assert not torch.equal(averaged[0].weight, trained[0])
    assert module.training and not averaged.training and not averaged[1].training


def test_there_may_be_no_previews(tmp_path, uninterrupted):
    def preview(modules: Mapping[str, nn.Module], writer: SummaryWriter, step: int) -> None:
        raise AssertionError

    assert_same(tiny_run(tmp_path, {}, preview=preview, preview_every=0), uninterrupted)


def test_previews_have_averaged_weights_and_do_not_change_training(tmp_path, uninterrupted):
    seen = []

    def preview(modules: Mapping[str, nn.Module], writer: SummaryWriter, step: int) -> None:
        assert not modules["model"].training
        torch.rand(3)
        seen.append((step, weights(modules["model"])))

    state = tiny_run(tmp_path, {}, preview=preview, preview_every=5)
    assert_same(state, uninterrupted)
    assert [step for step, _ in seen] == [5, 10, 12]
    torch.testing.assert_close(seen[-1][1], state.ema["model"].shadow_params, rtol=0, atol=0)


def test_a_step_with_a_spike_of_the_gradient_changes_no_weight_after_warm_up():
    module = nn.Linear(4, 4)
    config = loop_config(warmup_steps=2, accumulation=1)
    state = create_state({"m": Trained(module, OptimizerConfig(lr=0.1, skip_norm=1.0))}, config)
    skipped, changed = [], []
    for _ in range(4):
        before = weights(module)
        skipped.append(optimizer_step(state, SumStep(module), config)["skipped"])
        changed.append(not torch.equal(before[0], module.weight))
    assert skipped == [0, 0, 1, 1]  # the norm is always 2·√20
    assert changed == [True, True, False, False]
    assert state.step == state.schedule.last_epoch == 4


def test_metrics_that_only_some_micro_steps_have_are_their_means():
    parts = [{"loss": 1.0, "clips": 2.0, "loss/image": 1.0}, {"loss": 3.0, "clips": 4.0}]
    assert mean_metrics(parts) == {"loss": 2.0, "clips": 6.0, "loss/image": 1.0}
