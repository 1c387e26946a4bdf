"""The state of a training run: trained modules, their moving averages, the optimizer and the schedule."""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_wsd_schedule

from starflow.train.config import LoopConfig, OptimizerConfig, ParallelConfig
from starflow.train.muon import Muon
from starflow.train.parallelize import parallelize
from starflow.train.processes import is_main


@dataclass(frozen=True)
class Trained:
    """A module to train, and how: AdamW takes the parameters with a name in `not_muon` (see `parameter_groups`)."""

    module: nn.Module
    optimizer: OptimizerConfig
    not_muon: Collection[str] = ()


@dataclass
class TrainState:
    """The state of a run between two steps. All random numbers follow from the seed and the step."""

    modules: dict[str, nn.Module]
    ema: dict[str, EMAModel]  # moving averages of the trained parameters, by module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    architecture: dict[str, nn.Module]  # the modules on the meta device, as they were before `parallelize`
    step: int = 0  # number of steps done

    @torch.no_grad()
    def averaged(self) -> dict[str, nn.Module]:
        """Copies of the modules, in evaluation mode, whose weights are the moving averages.

        Without sharding, they share the memory of the averages and of the frozen weights. With sharding, all processes
        must call this together; process 0 gets the whole modules, and the others get none.
        """
        copies = {}
        for name, module in self.modules.items():
            averages = iter(self.ema[name].shadow_params)
            values = [whole(next(averages) if each.requires_grad else each) for each in module.parameters()]
            if is_main():
                copies[name] = with_parameters(self.architecture[name], values).eval()
        return copies


def create_state(
    trained: Mapping[str, Trained], loop: LoopConfig, parallel: ParallelConfig | None = None
) -> TrainState:
    """The state at step 0. Changes the modules in place: see `parallelize`.

    Args:
        trained: the modules to train, by name.
        loop: the schedule, the device, and the decay of the moving averages.
        parallel: what several processes share; None for the defaults.

    Raises:
        UsageError: `parallel` does not fit the modules or the number of processes.
    """
    modules = {name: each.module for name, each in trained.items()}
    architecture = {name: on_meta(module) for name, module in modules.items()}
    for module in modules.values():
        parallelize(module, loop, parallel or ParallelConfig())
    optimizer = Muon(
        [
            group
            for name, each in trained.items()
            for group in parameter_groups(name, each.module, each.optimizer, each.not_muon)
        ]
    )
    schedule = get_wsd_schedule(
        optimizer,
        num_warmup_steps=loop.warmup_steps,
        num_decay_steps=loop.decay_steps,
        num_training_steps=loop.num_steps,
        min_lr_ratio=loop.final_lr_factor,
    )
    # `EMAModel` ignores buffers, but no trained module has any. Its option `foreach` fails on sharded parameters.
    ema = {name: EMAModel(trained_parameters(module), decay=loop.ema_decay) for name, module in modules.items()}
    return TrainState(modules, ema, optimizer, schedule, architecture)


def parameter_groups(
    name: str, module: nn.Module, config: OptimizerConfig, not_muon: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Parameter groups: `name` for AdamW and, if `config.muon_lr` is not 0, `name`.muon for Muon.

    Each group has its own learning rate and is clipped separately. Muon gets the matrices and convolution kernels,
    except where a component of the parameter's name is in `not_muon`: list first layers, last layers and embeddings.
    """
    adamw: list[nn.Parameter] = []
    muon: list[nn.Parameter] = []
    for key, parameter in named_trained_parameters(module):
        is_hidden = parameter.ndim >= 2 and 1 < parameter.shape[0] < parameter.numel()
        use_muon = config.muon_lr > 0 and is_hidden and not set(not_muon) & set(key.split("."))
        (muon if use_muon else adamw).append(parameter)
    common = {"weight_decay": config.weight_decay, "clip_norm": config.clip_norm, "skip_norm": config.skip_norm}
    betas = (config.beta1, config.beta2)
    groups = [
        {"name": name, "params": adamw, "muon": False, "lr": config.lr, "betas": betas},
        {"name": f"{name}.muon", "params": muon, "muon": True, "lr": config.muon_lr, "betas": (0.95, 0.0)},
    ]
    return [group | common for group in groups if group["params"]]


def named_trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a module that are not frozen, with their names."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are not frozen."""
    return [parameter for _, parameter in named_trained_parameters(module)]


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module without weights, on the meta device."""
    # Not `empty_like`: a quantized weight would be a tensor of several parts.
    empty = [torch.empty(each.shape, dtype=each.dtype, device="meta") for each in module.parameters()]
    return with_parameters(module, empty)


def with_parameters(module: nn.Module, parameters: Collection[Tensor]) -> nn.Module:
    """A copy of a module with these tensors as its parameters, in the order of `module.parameters()`."""
    pairs = zip(module.parameters(), parameters, strict=True)
    return copy.deepcopy(module, {id(old): nn.Parameter(new, old.requires_grad) for old, new in pairs})


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, complete. All processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
