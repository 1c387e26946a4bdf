"""Checkpoints of a training run: safetensors and JSON in one folder per step, written atomically, never a pickle.

checkpoints/step-00001500/{module}.safetensors       weights
                          ema.{module}.safetensors   their moving average
                          optimizer.safetensors      state of parameter i under the names i.exp_avg, i.exp_avg_sq, …
                          state.json                 step, state of the random generators
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from starflow.errors import StarflowError
from starflow.media.files import atomic_write, remove


@dataclass
class TrainState:
    """All that a run is between two steps, except the random generators, which are the process's own."""

    modules: dict[str, nn.Module]
    ema: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    step: int = 0  # optimizer steps done


def save_checkpoint(state: TrainState, folder: Path, keep: int) -> Path:
    """Write `folder`/step-…, then remove all but the newest `keep` checkpoints."""
    path = folder / f"step-{state.step:08d}"
    with atomic_write(path) as temporary:
        temporary.mkdir()
        for prefix, modules in (("", state.modules), ("ema.", state.ema)):
            for name, module in modules.items():
                save_model(module, str(temporary / f"{prefix}{name}.safetensors"))
        _save_tensors(_optimizer_tensors(state.optimizer), temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": state.step, "random": _random_state()}))
    for old in list_checkpoints(folder)[:-keep]:
        remove(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_checkpoint(state: TrainState, path: Path) -> None:
    """Bring `state` and the random generators back to what they were when `path` was written.

    Raises:
        StarflowError: a file is missing or corrupt, or belongs to another architecture.
    """
    try:
        for prefix, modules in (("", state.modules), ("ema.", state.ema)):
            for name, module in modules.items():
                load_model(module, path / f"{prefix}{name}.safetensors")
        _restore_optimizer(state.optimizer, load_file(path / "optimizer.safetensors"))
        saved = json.loads((path / "state.json").read_text())
        state.step = saved["step"]
        _restore_random_state(saved["random"])
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
        # In the parameter's own memory layout: in another, the same arithmetic may round its last bit otherwise.
        same_layout = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        states.setdefault(int(index), {})[name] = same_layout
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


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
