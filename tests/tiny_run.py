"""A training run that takes a fraction of a second, for tests of the loop. A step can send a signal to its process."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from starflow.train.config import LoopConfig, OptimizerConfig
from starflow.train.loop import Preview, resume_or_start, seed_everything, train
from starflow.train.state import Trained, TrainState, create_state

NUM_STEPS = 12


class TinyStep:
    """Regression with noise from the global generators, so that a run depends on everything in a checkpoint."""

    def __init__(self, model: nn.Module, scale_model: nn.Module, signal_at: dict[int, signal.Signals]) -> None:
        self.model, self.scale_model, self.signal_at = model, scale_model, signal_at

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        if micro_step == 1 and step in self.signal_at:
            os.kill(os.getpid(), self.signal_at[step])
        inputs = torch.from_numpy(np.random.default_rng([step, micro_step]).standard_normal((8, 4))).float()
        noise = torch.randn_like(inputs) + np.random.random()  # noqa: NPY002
        prediction = self.scale_model(torch.tanh(self.model(inputs + 0.1 * noise)))
        loss = (prediction - inputs.sin()).square().mean()
        (scale * loss).backward()
        return {"loss": loss.item(), "clips": 8.0}


def loop_config(**changes: object) -> LoopConfig:
    values = {"num_steps": NUM_STEPS, "decay_steps": 8, "warmup_steps": 3, "accumulation": 2, "checkpoint_every": 4}
    return LoopConfig(**(values | changes))  # type: ignore[arg-type]


def tiny_run(
    folder: Path,
    signal_at: dict[int, signal.Signals],
    *,
    resume: bool = False,
    preview: Preview | None = None,
    **changes: object,
) -> TrainState:
    """Train in `folder`; `signal_at` maps steps to the signals sent during them, `changes` are for `loop_config`."""
    torch.set_num_threads(1)
    config = loop_config(**changes)
    seed_everything(config.seed)
    model, scale_model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), nn.Linear(4, 4)
    trained = {
        "model": Trained(model, OptimizerConfig(lr=1e-2, muon_lr=0.02)),
        "scale": Trained(scale_model, OptimizerConfig(lr=1e-2, clip_norm=0.1)),
    }
    state = create_state(trained, config)
    resume_or_start(state, folder, resume)
    train(state, TinyStep(model, scale_model, signal_at), config, folder, preview)
    return state


def assert_same(one: TrainState, other: TrainState) -> None:
    assert one.step == other.step == one.schedule.last_epoch == other.schedule.last_epoch
    for name, module in one.modules.items():
        torch.testing.assert_close(module.state_dict(), other.modules[name].state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(one.ema[name].state_dict(), other.ema[name].state_dict(), rtol=0, atol=0)
    mine, theirs = one.optimizer.state_dict(), other.optimizer.state_dict()
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=0, atol=0)
    assert mine["param_groups"] == theirs["param_groups"]


if __name__ == "__main__":
    tiny_run(Path(sys.argv[1]), {9: signal.SIGKILL})
