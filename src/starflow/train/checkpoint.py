"""Checkpoints of a training run: one folder per step with safetensors and JSON files, written atomically.

checkpoints/step-00001500/{module}.safetensors       weights
                          ema.{module}.safetensors   moving averages of the weights
                          optimizer.safetensors      {i}.exp_avg, {i}.exp_avg_sq, … of parameter number i
                          state.json                 step and state of the random generators
"""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import LambdaLR

from starflow.errors import StarflowError
from starflow.media.files import atomic_write, remove


@dataclass
class TrainState:
    """The state of a run between two steps, without the global random generators."""

    modules: dict[str, nn.Module]
    ema: dict[str, EMAModel]  # moving averages of the parameters, by module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    step: int = 0  # number of steps done

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """A context in which the modules have the moving averages as their weights and are in evaluation mode."""
        modes = [(part, part.training) for module in self.modules.values() for part in module.modules()]
        for name, module in self.modules.items():
            self.ema[name].store(_parameters(module))
            self.ema[name].copy_to(module.parameters())
            module.eval()
        try:
            yield
        finally:
            for name, module in self.modules.items():
                self.ema[name].restore(_parameters(module))
            for part, mode in modes:
                part.training = mode


def _parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters, sharded if the module is; a forward pass without a backward pass leaves them gathered."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return list(module.parameters())


def save_checkpoint(state: TrainState, folder: Path, keep: int) -> Path:
    """Write `folder`/step-…, then delete all but the newest `keep` checkpoints; returns the path of the new one."""
    path = folder / f"step-{state.step:08d}"
    with atomic_write(path) as temporary:
        temporary.mkdir()
        for name, module in state.modules.items():
            save_model(module, str(temporary / f"{name}.safetensors"))
            names = [key for key, _ in module.named_parameters()]
            averages = dict(zip(names, state.ema[name].shadow_params, strict=True))
            _save_tensors(averages, temporary / f"ema.{name}.safetensors")
        _save_tensors(_optimizer_tensors(state.optimizer), temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": state.step, "random": _random_state()}))
    for old in list_checkpoints(folder)[:-keep]:
        remove(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_checkpoint(state: TrainState, path: Path) -> None:
    """Restore `state` and the random generators from the checkpoint at `path`.

    The peak learning rates of `state` do not change, so that a run can resume with other rates.

    Raises:
        StarflowError: a file is missing or corrupt, or the checkpoint is of another architecture.
    """
    try:
        saved = json.loads((path / "state.json").read_text())
        for name, module in state.modules.items():
            load_model(module, path / f"ema.{name}.safetensors")
            averages = [parameter.detach() for parameter in module.parameters()]
            state.ema[name].load_state_dict({"shadow_params": averages, "optimization_step": saved["step"]})
            load_model(module, path / f"{name}.safetensors")
        _restore_optimizer(state.optimizer, load_file(path / "optimizer.safetensors"))
        _restore_schedule(state.schedule, saved["step"])
        _restore_random_state(saved["random"])
        state.step = saved["step"]
    except (OSError, SafetensorError, RuntimeError, LookupError, ValueError) as error:
        raise StarflowError(f"cannot resume from {path}: {error}") from error


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, state in states.items() for name, value in state.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        # In the memory layout of the parameter, because rounding may depend on the layout.
        same_layout = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        states.setdefault(int(index), {})[name] = same_layout
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def _restore_schedule(schedule: LambdaLR, step: int) -> None:
    schedule.last_epoch = step
    groups = schedule.optimizer.param_groups
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * factor(step)


def _random_state() -> dict[str, Any]:
    algorithm, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (libraries may draw from it)
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [each.tolist() for each in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": [algorithm, np.asarray(keys).tolist(), position, has_gauss, cached],
        "python": random.getstate(),
    }


def _restore_random_state(saved: Mapping[str, Any]) -> None:
    torch.set_rng_state(torch.tensor(saved["torch"], dtype=torch.uint8))
    if saved["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.tensor(each, dtype=torch.uint8) for each in saved["cuda"]])
    algorithm, keys, *rest = saved["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
