"""Reading released checkpoints: what `torch.save` or `torch.distributed.checkpoint` wrote of a model's state dict.

Nothing is unpickled but tensors, and files are mapped, not read: a tensor's bytes are touched when it is used.
"""

import re
from pathlib import Path

from torch import Tensor

from starflow.convert.stored import StoredTensor
from starflow.errors import StarflowError

# What wrappers put into parameters' names: DataParallel and DDP in front, FSDP, compile and checkpointing anywhere.
WRAPPERS = re.compile(r"^(module\.)+|_fsdp_wrapped_module\.|_orig_mod\.|_checkpoint_wrapped_module\.")


def open_checkpoint(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a released checkpoint by name, without the prefixes of wrappers; none is read yet.

    Args:
        path: a `.pth` file holding a state dict, of tensors or of whole `DTensor`s; or a folder written by
            `torch.distributed.checkpoint`.

    Raises:
        StarflowError: it is missing, truncated, not a state dict, holds code, or holds only a part of its tensors.
    """
    if not path.exists():
        raise StarflowError(f"cannot read {path}: there is no such file")
    if path.is_dir():
        from starflow.convert.distributed_checkpoint import open_folder

        tensors = open_folder(path)
    else:
        tensors = _open_file(path)
    return {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}


def _open_file(path: Path) -> dict[str, StoredTensor]:
    import torch.distributed.tensor

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise StarflowError(f"cannot read {path} as a released checkpoint: {_reason(error)}") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise StarflowError(f"{path} is not a state dict of tensors")
    return {name: _whole(name, tensor) for name, tensor in state.items()}


def _reason(error: Exception) -> str:
    message = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return f"it holds code ({found[1]}) where only tensors belong, which was not run; get the file from its makers"
    if "PytorchStreamReader" in message:
        return "it is truncated, or was not written by torch.save"
    if "mmap can only be used" in message:
        return "it was not written by torch.save, or by one before torch 1.6 (load and save it once with a newer one)"
    return message.partition("\n")[0]


def _whole(name: str, tensor: Tensor) -> StoredTensor:
    """A tensor of a state dict; a `DTensor` must have all of itself in this file."""
    from torch.distributed.tensor import DTensor

    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if local.shape != tensor.shape:
        raise StarflowError(
            f"the file holds {tuple(local.shape)} of the {tuple(tensor.shape)} of {name}: it is one rank's part of a "
            "sharded model; give the folder that torch.distributed.checkpoint wrote, or gather the model and save it"
        )
    return StoredTensor(tuple(local.shape), local.dtype, lambda: local.detach())
