"""What is applied to a module from outside before training: recomputation, compilation, and sharding over processes.

The code of the models is for one device. `parallelize` changes a module in place, so that only its calls differ:

* Activation checkpointing keeps less of a forward pass and computes the rest again in the backward pass. `full` keeps
  the inputs of each layer. `selective` also keeps the results of matrix products and of attention, so that no
  expensive operation runs twice (Korthikanti et al. 2022, arXiv 2205.05198, choose by the same rule).
* Compilation by `torch.compile` of each layer.
* Sharding by FSDP2 (`fully_shard`) over a mesh of replicas × shards. Each parameter, its gradient, its optimizer state
  and its moving average are divided among the processes of a group, and the groups are replicas of each other. `fsdp`
  is one group of all processes, `ddp` has groups of one process, so that nothing is divided, and `hsdp` is in between.

With several processes, forward passes must go through `module(...)`, because hooks on it gather the weights.
"""

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.models.t5.modeling_t5 import T5Block

from starflow.errors import UsageError
from starflow.flow.transformer import Layer
from starflow.train.config import LoopConfig, ParallelConfig
from starflow.train.processes import num_processes

STRATEGIES = ("ddp", "fsdp", "hsdp")
ACTIVATION_CHECKPOINTING = ("none", "selective", "full")
LAYERS = (Layer, T5Block)
# The results that selective checkpointing keeps.
aten = torch.ops.aten
KEPT = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def parallelize(module: nn.Module, loop: LoopConfig, parallel: ParallelConfig) -> None:
    """Prepare a module for training, in place, and move it to the device of `loop`.

    Args:
        module: with its initial weights, which are the same in every process, on the CPU or the device.
        loop: the device, and whether the weights are gathered and used in bfloat16.
        parallel: what to apply.

    Raises:
        UsageError: a name is unknown, the module has no layers to checkpoint, or the processes cannot be divided.
    """
    _check(parallel)
    layers = [part for part in module.modules() if isinstance(part, LAYERS)]
    if parallel.activation_checkpointing != "none":
        if not layers:
            raise UsageError("only transformers recompute activations: set parallel.activation_checkpointing=none")
        checkpoint_activations(layers, parallel.activation_checkpointing)
    if parallel.compile:
        for layer in layers:
            layer.compile()
    if num_processes() == 1 or parallel.strategy == "ddp":
        module.to(loop.device)
    if num_processes() == 1:
        return
    # With ddp, frozen weights need no communication. So they may have formats that cannot be divided, such as int8.
    ignored = {each for each in module.parameters() if not each.requires_grad and parallel.strategy == "ddp"}
    dtype = torch.bfloat16 if loop.bf16 else None
    # The inputs are not cast, because the affine maps of the flow compute in float32.
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = build_mesh(loop.device, parallel)
    for parameter in set(module.parameters()) - ignored:
        parameter.data = parameter.data.contiguous()  # FSDP takes no other memory layout
    for part in (*layers, module):
        fully_shard(part, mesh=mesh, mp_policy=precision, ignored_params=ignored)


def checkpoint_activations(layers: Iterable[nn.Module], kind: str) -> None:
    """Recompute activations of these layers in the backward pass; `kind` is `selective` or `full`."""
    context: dict[str, Any] = {}
    if kind == "selective":
        context["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    for layer in layers:
        # The name of the layer and of its parameters stay, unlike with a wrapper.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, **context)


def _keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def build_mesh(device: str, parallel: ParallelConfig) -> DeviceMesh:
    """A mesh of all processes: replicas × processes that divide the weights. Raises UsageError if it is impossible."""
    size = num_processes()
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    shards = {"ddp": 1, "fsdp": size, "hsdp": parallel.group_size or on_machine}[parallel.strategy]
    if size % shards:
        raise UsageError(
            f"{size} processes cannot form groups of {shards}: set parallel.group_size to a divisor of {size}"
        )
    return init_device_mesh(torch.device(device).type, (size // shards, shards), mesh_dim_names=("replicate", "shard"))


def set_gradient_sync(modules: Iterable[nn.Module], sync: bool) -> None:
    """Whether the next backward pass sums the gradients over the processes, or only adds them up in each."""
    for module in modules:
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(sync)


def _check(parallel: ParallelConfig) -> None:
    for name, known in (("strategy", STRATEGIES), ("activation_checkpointing", ACTIVATION_CHECKPOINTING)):
        if getattr(parallel, name) not in known:
            raise UsageError(f"parallel.{name} is {getattr(parallel, name)!r}: choose {', '.join(known)}")
