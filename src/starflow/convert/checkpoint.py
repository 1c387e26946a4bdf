"""Reading released checkpoints: files in which `torch.save` stored a model's state dict.

Only tensors are unpickled. The file is mapped into memory: the bytes of a tensor are read when they are used.
"""

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from starflow.errors import StarflowError

# What wrappers add to parameter names: DataParallel and DDP in front, FSDP, compile and checkpointing anywhere.
WRAPPERS = re.compile(r"^(module\.)+|_fsdp_wrapped_module\.|_orig_mod\.|_checkpoint_wrapped_module\.")


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a released checkpoint, mapped, by their names without the prefixes of wrappers.

    Args:
        path: a `.pth` file that holds a state dict. Each `DTensor` in it must be complete.

    Raises:
        StarflowError: the file is missing, damaged, not a state dict, holds code, or holds only part of a tensor.
    """
    if not path.exists():
        raise StarflowError(f"cannot read {path}: there is no such file")
    if path.is_dir():
        raise StarflowError(
            f"{path} is a folder. If torch.distributed.checkpoint wrote it and you trust its origin (the command "
            "unpickles its index, which can run code), turn it into a file: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pth"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise StarflowError(f"cannot read {path} as a released checkpoint: {_reason(error)}") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise StarflowError(f"{path} is not a state dict of tensors")
    return {WRAPPERS.sub("", name): _complete(name, tensor) for name, tensor in state.items()}


def _reason(error: Exception) -> str:
    message = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return f"it holds code ({found[1]}), which was not run; a checkpoint should hold only tensors"
    if "PytorchStreamReader" in message:
        return "it is truncated, or torch.save did not write it"
    if "mmap can only be used" in message:
        return "torch.save did not write it, or a version before torch 1.6 did (load and save it with a newer one)"
    return message.partition("\n")[0]


def _complete(name: str, tensor: Tensor) -> Tensor:
    """A tensor of the state dict as a plain tensor."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if local.shape != tensor.shape:
        raise StarflowError(
            f"the file holds {tuple(local.shape)} of the {tuple(tensor.shape)} of {name}: it is one rank's part of a "
            "sharded model; gather the model before saving it"
        )
    return local.detach()
