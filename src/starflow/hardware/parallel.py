"""A model shared by several processes: tensor parallelism of its transformers, applied from outside.

Every process holds an equal share of each layer's heads and of its MLP, and with it of the weights and of the key/value
cache (Megatron-LM, arXiv 1909.08053, by torch's DTensor): `qkv` and `up` are split by columns, `proj` and `down` by
rows, so that a layer sums over the processes twice. What goes into a layer and comes out is whole in every process, and
the same to the last bit, so that everything around the layers runs in each of them as it does in one.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from starflow.errors import UsageError
from starflow.flow.transformer import Transformer

M = TypeVar("M", bound=nn.Module)

BY_COLUMNS, BY_ROWS = ("attention.qkv", "mlp.up"), ("attention.proj", "mlp.down")


def parallelize(module: M, mesh: DeviceMesh) -> M:
    """Leave of all transformers in a module (flow or denoiser) this process's share; returns the module.

    Every process must do so with the same weights. Those of the layers go to the mesh's device; what is not split stays
    where it is. The module can compute as before, in all processes at once, but no longer be saved.

    Args:
        module: on the CPU or on the mesh's device.
        mesh: of one dimension.

    Raises UsageError if the heads cannot be shared out evenly.
    """
    check_heads(module, mesh.size())
    for transformer in _transformers(module):
        for layer in transformer.layers:
            _put_shares_together(layer.get_submodule("attention.qkv"), mesh.size())
            plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in BY_COLUMNS}
            plan |= {name: RowwiseParallel() for name in BY_ROWS}
            parallelize_module(layer, mesh, plan, src_data_rank=None)
        transformer.num_heads //= mesh.size()
    return module


def share_of(module: M, processes: int) -> M:
    """A copy of a module on the meta device, with the shapes of one process's share after `parallelize`.

    Raises UsageError if the heads cannot be shared out evenly.
    """
    check_heads(module, processes)
    module = deepcopy(module)
    for transformer in _transformers(module):
        for layer in transformer.layers:
            for name in BY_COLUMNS:
                _keep(layer.get_submodule(name), "weight", 0, processes)
                _keep(layer.get_submodule(name), "bias", 0, processes)
            for name in BY_ROWS:
                _keep(layer.get_submodule(name), "weight", 1, processes)
        transformer.num_heads //= processes
    return module


def check_heads(module: nn.Module, processes: int) -> None:
    """Raise UsageError unless so many processes can have equally many heads of every layer of a module."""
    heads = {transformer.num_heads for transformer in _transformers(module)}
    if any(number % processes for number in heads):
        possible = [n for n in range(2, min(heads) + 1) if not any(number % n for number in heads)]
        choices = f"start {', '.join(map(str, possible))} of them, or one" if possible else "start one"
        raise UsageError(
            f"{processes} processes cannot share this model: its layers have {' and '.join(map(str, sorted(heads)))} "
            f"attention heads; {choices}"
        )


def _transformers(module: nn.Module) -> Iterator[Transformer]:
    return (each for each in module.modules() if isinstance(each, Transformer))


def _put_shares_together(qkv: nn.Module, processes: int) -> None:
    """Reorder rows from queries, keys, values of all heads to those of each process's heads, which are then split."""
    with torch.no_grad():
        for parameter in qkv.parameters():
            by_share = parameter.unflatten(0, (3, processes, -1)).transpose(0, 1)
            parameter.data = by_share.flatten(0, 2).contiguous()


def _keep(module: nn.Module, name: str, dim: int, processes: int) -> None:
    parameter = module.get_parameter(name)
    setattr(module, name, nn.Parameter(parameter.narrow(dim, 0, parameter.shape[dim] // processes), False))
