"""Tensor parallelism: several processes share the transformers of a model. It is applied from outside the model.

Each process holds an equal share of the heads and of the MLP of every layer, and so of the weights and of the key/value
cache. `qkv` and `up` are split by columns, `proj` and `down` by rows, so each layer has two sums over the processes
(Megatron-LM, arXiv 1909.08053; done by torch's DTensor). The inputs and outputs of a layer are complete in every
process and equal to the last bit, so the code around the layers runs unchanged.
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
    """Reduce the transformers of a module to the share of this process.

    Every process must call this, with the same weights. The weights of the layers move to the device of the mesh, the
    others stay where they are. Afterwards the module computes as before, if all processes call it together. It can no
    longer be saved.

    Args:
        module: the flow or the denoiser, on the CPU or on the device of the mesh.
        mesh: the processes, in one dimension.

    Returns:
        The module.

    Raises:
        UsageError: the heads cannot be divided evenly.
    """
    check_heads(module, mesh.size())
    for transformer in _transformers(module):
        for layer in transformer.layers:
            _group_rows_by_share(layer.get_submodule("attention.qkv"), mesh.size())
            plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in BY_COLUMNS}
            plan |= {name: RowwiseParallel() for name in BY_ROWS}
            parallelize_module(layer, mesh, plan, src_data_rank=None)
        transformer.num_heads //= mesh.size()
    return module


def share_of(module: M, processes: int) -> M:
    """A copy of a module on the meta device, with the shapes that `parallelize` leaves in each process.

    Raises UsageError if the heads cannot be divided evenly.
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
    """Raise UsageError unless the heads of every layer can be divided evenly among the processes."""
    heads = {transformer.num_heads for transformer in _transformers(module)}
    if any(number % processes for number in heads):
        possible = [n for n in range(1, min(heads) + 1) if not any(number % n for number in heads)]
        raise UsageError(
            f"{processes} processes cannot share this model: its layers have {' and '.join(map(str, sorted(heads)))} "
            f"attention heads; the number of processes can be {', '.join(map(str, possible))}"
        )


def _transformers(module: nn.Module) -> Iterator[Transformer]:
    return (each for each in module.modules() if isinstance(each, Transformer))


def _group_rows_by_share(qkv: nn.Module, processes: int) -> None:
    """Reorder rows from (queries, keys, values) of all heads to (queries, keys, values) of each process's heads."""
    with torch.no_grad():
        for parameter in qkv.parameters():
            by_share = parameter.unflatten(0, (3, processes, -1)).transpose(0, 1)
            parameter.data = by_share.flatten(0, 2).contiguous()


def _keep(module: nn.Module, name: str, dim: int, processes: int) -> None:
    parameter = module.get_parameter(name)
    setattr(module, name, nn.Parameter(parameter.narrow(dim, 0, parameter.shape[dim] // processes), False))
