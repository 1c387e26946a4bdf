"""Weights in safetensors files, mapped into memory when read, in the layout of `from_pretrained`."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import Tensor

from starflow.errors import StarflowError
from starflow.weights.finite import is_finite

# A cast needs memory for one file of weights, so the files are smaller than the usual 5 or 10 GB.
MAX_SHARD_BYTES = 2_000_000_000
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file. Mapped tensors are not copied into memory.

    Raises StarflowError if the format cannot hold them, or if the file cannot be written.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except Exception as error:
        raise StarflowError(f"cannot write {path.name}: {error}") from error


def write_sharded(
    folder: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Write weights to one file, or to several and an index. A cast happens file by file.

    Args:
        folder: where the files go.
        tensors: the weights by name.
        dtype: of the weights in the files; None keeps that of each tensor.
        max_shard_bytes: the most bytes of weights in a file, unless a single tensor is larger.

    Returns:
        The number of files with weights.

    Raises:
        StarflowError: a weight is not finite or of another dtype than `WEIGHT_DTYPES`, or a file cannot be written.
    """
    shards = split_torch_state_dict_into_shards(
        {name: tensor.to("meta", dtype) for name, tensor in tensors.items()},
        filename_pattern=WEIGHTS_NAME.replace(".", "{suffix}.", 1),
        max_shard_size=max_shard_bytes,
    )
    for filename, names in shards.filename_to_tensors.items():
        write_safetensors(folder / filename, {name: _weight(name, tensors[name], dtype) for name in names})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")
    return len(shards.filename_to_tensors)


def _weight(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A weight as it is written."""
    tensor = tensor.to(dtype).contiguous()
    if tensor.dtype not in WEIGHT_DTYPES:
        raise StarflowError(f"the weight {name} is of {tensor.dtype}: choose a precision with --dtype")
    if not is_finite(tensor):
        raise StarflowError(
            f"the weight {name} is not finite: the checkpoint is damaged, or {tensor.dtype} is too narrow for it"
        )
    return tensor


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped. Raises StarflowError if the file is missing or damaged."""
    try:
        return load_file(path)
    except Exception as error:
        raise StarflowError(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from error


def open_sharded(folder: Path) -> dict[str, Tensor]:
    """The weights that `write_sharded` or `save_pretrained` wrote to a folder, mapped.

    Raises StarflowError if files are missing or damaged.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return open_safetensors(folder / WEIGHTS_NAME)
    try:
        files = sorted(set(json.loads((folder / INDEX_NAME).read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError) as error:
        raise StarflowError(f"there are no weights in {folder}: neither {WEIGHTS_NAME} nor {INDEX_NAME}") from error
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= open_safetensors(folder / file)
    return tensors
