"""Tensors that lie in a file and are read one at a time: what conversion moves, so that memory never holds a model."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import safe_open
from torch import Tensor

from starflow.errors import StarflowError

MAX_SHARD_BYTES = 5_000_000_000
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
INDEX_NAME = f"{WEIGHTS_NAME}.index.json"

# The names that the safetensors format gives to dtypes.
DTYPE_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's shape and dtype, and how to read it; what `read` returns should be dropped before the next is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def cast(self, dtype: torch.dtype) -> "StoredTensor":
        """The same tensor in another dtype, changed as it is read."""
        return StoredTensor(self.shape, dtype, lambda: self.read().to(dtype))


StoredTensors = Mapping[str, StoredTensor]


def total_bytes(tensors: StoredTensors) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_safetensors(path: Path, tensors: StoredTensors) -> None:
    """Write a safetensors file tensor by tensor; the library's own `save_file` wants them all in memory.

    The format: the header's length (8 bytes, little endian), the header (JSON, padded to 8 bytes), the tensors' bytes.
    Wide dtypes come first, which keeps every tensor aligned.

    Raises StarflowError for a dtype that the format does not have.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in ordered.items():
        if tensor.dtype not in DTYPE_CODES:
            raise StarflowError(f"{name} is of {tensor.dtype}, which safetensors cannot hold")
        end = offset + tensor.nbytes
        header[name] = {"dtype": DTYPE_CODES[tensor.dtype], "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor in ordered.values():
            file.write(tensor.read().contiguous().flatten().view(torch.uint8).numpy().data)


def write_sharded(folder: Path, tensors: StoredTensors, max_shard_bytes: int = MAX_SHARD_BYTES) -> int:
    """Write weights as `from_pretrained` finds them: in one file, or in several and an index. Returns how many."""
    plan = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: tensor.nbytes,
        get_storage_id=lambda _: None,
        filename_pattern=re.sub(r"\.safetensors$", "{suffix}.safetensors", WEIGHTS_NAME),
        max_shard_size=max_shard_bytes,
    )
    for filename, names in plan.filename_to_tensors.items():
        write_safetensors(folder / filename, {name: tensors[name] for name in names})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")
    return len(plan.filename_to_tensors)


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file. Raises StarflowError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            dtypes = {name: file.get_slice(name).get_dtype() for name in names}
    except Exception as error:
        raise StarflowError(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from error
    dtype_of = {code: dtype for dtype, code in DTYPE_CODES.items()}
    return {name: StoredTensor(tuple(shapes[name]), dtype_of[dtypes[name]], _reader(path, name)) for name in names}


def _reader(path: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    return read


def open_sharded(folder: Path) -> dict[str, StoredTensor]:
    """The weights that `write_sharded` (or `save_pretrained`) left in a folder. Raises StarflowError if some lack."""
    if (folder / WEIGHTS_NAME).is_file():
        return open_safetensors(folder / WEIGHTS_NAME)
    try:
        files = sorted(set(json.loads((folder / INDEX_NAME).read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError) as error:
        raise StarflowError(f"there are no weights in {folder}: neither {WEIGHTS_NAME} nor {INDEX_NAME}") from error
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors |= open_safetensors(folder / file)
    return tensors
