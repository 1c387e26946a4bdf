"""Reading a folder of `torch.distributed.checkpoint` (DCP), as the released trainer writes under FSDP.

The library unpickles such a folder's index with no questions asked; here it may hold tensors' names and places only.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from starflow.convert.stored import StoredTensor
from starflow.errors import StarflowError

# All that an index is made of, by module; anything else in it is refused.
INDEX_TYPES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"},
    "pathlib": {"PosixPath", "PurePosixPath"},
}


def open_folder(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a DCP folder by name; none is read yet.

    Raises StarflowError if it is not such a folder, or its index is damaged, holds code, or more than tensors.
    """
    index = _read_index(folder)
    tensors = {}
    for name, entry in index.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise StarflowError(f"{folder} is not a state dict of tensors: {name} is something else")
        tensors[name] = StoredTensor(tuple(entry.size), entry.properties.dtype, _read_of(folder, index, name, entry))
    return tensors


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in INDEX_TYPES.get(module, ()):
            raise StarflowError(f"its index holds code ({module}.{name}), and was not run; get it from its makers")
        return super().find_class(module, name)


def _read_index(folder: Path) -> Metadata:
    try:
        with (folder / ".metadata").open("rb") as file:
            index = _IndexUnpickler(file).load()
    except FileNotFoundError:
        raise StarflowError(
            f"cannot read {folder}: it is no folder of torch.distributed.checkpoint (no .metadata)"
        ) from None
    except StarflowError as error:
        raise StarflowError(f"cannot read {folder}: {error}") from None
    except Exception as error:
        raise StarflowError(f"cannot read {folder}: its index is damaged") from error
    if not isinstance(index, Metadata) or not index.state_dict_metadata:
        raise StarflowError(f"{folder} is not a state dict of tensors")
    return index


class _Reader(dcp.FileSystemReader):
    """The library's reader, given an index that was read safely."""

    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self.index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self.index.storage_meta = self.index.storage_meta or StorageMeta()
        self.index.storage_meta.load_id = self.load_id
        return self.index


def _read_of(folder: Path, index: Metadata, name: str, entry: TensorStorageMetadata) -> Callable[[], Tensor]:
    def read() -> Tensor:
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
        try:
            dcp.load({name: tensor}, storage_reader=_Reader(folder, index), no_dist=True)
        except (Exception, CheckpointException) as error:  # the library's own is no Exception
            raise StarflowError(f"cannot read {name} from {folder}: a file is missing or damaged") from error
        return tensor

    return read
