"""Training on the device: a step is that of the CPU, a resumed run is the uninterrupted one, NaN stops it."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from invertible_maps import randomize
from starflow.errors import StarflowError
from starflow.flow.loss import flow_loss
from starflow.flow.model import StarFlow
from starflow.train.checkpoint import Checkpoints, list_checkpoints, load_checkpoint
from starflow.train.config import LoopConfig, OptimizerConfig
from starflow.train.loop import optimizer_step
from starflow.train.state import Trained, TrainState, create_state

pytestmark = pytest.mark.gpu
CHANNELS, TEXT_WIDTH = 4, 16


def small_flow() -> StarFlow:
    flow = StarFlow(CHANNELS, [1], 2, 64, 64, 32, TEXT_WIDTH, position_length=4)
    return randomize(flow, dtype=torch.float32).requires_grad_()


class Step:
    """The flow's loss on latents drawn from the device's global generator."""

    def __init__(self, flow: StarFlow, device: torch.device) -> None:
        self.flow, self.device = flow, device

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        x = torch.randn(4, 2, CHANNELS, 3, 4, device=self.device)
        text = torch.randn(4, 5, TEXT_WIDTH, device=self.device)
        loss = flow_loss(self.flow(x, text))
        (scale * loss).backward()
        return {"loss": loss.item(), "clips": 4.0}


def state_of(device: torch.device) -> tuple[TrainState, Step, LoopConfig]:
    config = LoopConfig(num_steps=6, decay_steps=2, warmup_steps=1, device=device.type)
    flow = small_flow()
    state = create_state({"flow": Trained(flow, OptimizerConfig(lr=1e-3, muon_lr=1e-2))}, config)
    return state, Step(flow, device), config


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def test_a_step_is_that_of_the_cpu(device: torch.device):
    x, text = torch.randn(4, 2, CHANNELS, 3, 4), torch.randn(4, 5, TEXT_WIDTH)
    on_cpu = small_flow()
    on_device = deepcopy(on_cpu).to(device)
    before = weights(on_cpu)
    for flow in (on_cpu, on_device):
        optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-3)
        flow_loss(flow(x.to(flow.device), text.to(flow.device))).backward()
        optimizer.step()
    for (name, want), got in zip(on_cpu.named_parameters(), on_device.parameters(), strict=True):
        scale = want.grad.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(got.grad.cpu(), want.grad, atol=1e-4 * scale + 1e-7, rtol=1e-3, msg=name)
    moved = max((weights(on_device)[name] - tensor).abs().max() for name, tensor in before.items())
    assert moved > 1e-4


def test_a_resumed_run_is_the_uninterrupted_one(device: torch.device, tmp_path: Path):
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # other kernels add up gradients in an order that varies
            state, step, config = state_of(device)
            for _ in range(6):
                optimizer_step(state, step, config)
                if state.step == 3:
                    checkpoints = Checkpoints(tmp_path, keep=1)
                    checkpoints.save(state)
                    checkpoints.wait()
            (path,) = list_checkpoints(tmp_path)
            resumed, step, config = state_of(device)
            load_checkpoint(resumed, path)
            assert resumed.step == 3
            for _ in range(3):
                optimizer_step(resumed, step, config)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    want, got = weights(state.modules["flow"]), weights(resumed.modules["flow"])
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


def test_a_loss_that_is_nan_stops_the_run(device: torch.device):
    state, step, config = state_of(device)
    with torch.no_grad():
        step.flow.deep.proj_out.bias[0] = torch.nan
    with pytest.raises(StarflowError, match="diverged"):
        optimizer_step(state, step, config)
