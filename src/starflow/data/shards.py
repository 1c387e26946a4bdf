"""Shards: safetensors files that are written once and never changed. Caches of latents and of texts consist of them.

The header of a shard has `about`, a JSON object: `made_with`, and what its writer adds.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from starflow.errors import StarflowError
from starflow.media.files import atomic_write

DIGEST = np.dtype("S20")
OPEN_SHARDS = 1000  # at once: a process may map only some ten thousand files
ENCODING_TIMEOUT = timedelta(days=30)  # for other processes, which may be encoding millions of clips


def open_shard(path: Path | str) -> tuple[safe_open, dict[str, Any]]:
    """The memory-mapped tensors of a shard, and what its header says. Raises StarflowError if it is damaged."""
    try:
        file = safe_open(path, framework="pt")
        metadata = file.metadata() or {}
        return file, json.loads(metadata.get("about", '{"made_with": {}, "records": []}'))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise StarflowError(f"{path} is damaged ({error}): remove it, and its content will be encoded again") from error


class Digests:
    """Finds digests among many. Each takes 28 bytes.

    Attributes:
        digests: texts of 20 characters, as bytes.
    """

    def __init__(self, digests: NDArray[np.bytes_]) -> None:
        self.digests, self._order = digests, np.argsort(digests, kind="stable")

    def find(self, wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The place of each digest, the first if there are several; -1 if it is not there."""
        if not len(self.digests):
            return np.full(len(wanted), -1)
        rank = np.searchsorted(self.digests, wanted, sorter=self._order)
        place = self._order[np.minimum(rank, len(self.digests) - 1)]
        return np.where(self.digests[place] == wanted, place, -1)


def digest_of(content: bytes) -> str:
    """A digest for `Digests`."""
    return hashlib.sha256(content).hexdigest()[:20]


@lru_cache(maxsize=OPEN_SHARDS)
def mapped_shard(path: Path | str) -> safe_open:
    """The memory-mapped tensors of a shard, which stays open while it is among the last that were used."""
    return open_shard(path)[0]


def write_shard(folder: Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write a shard to `folder`, named by its kind and a digest of `about`. Raises StarflowError if it cannot be."""
    text = json.dumps(about)
    path = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    with atomic_write(path) as temporary:
        try:
            save_file(dict(tensors), temporary, {"about": text})
        except SafetensorError as error:
            raise StarflowError(f"cannot write {kind} to {folder}: {error}") from error
    return path


def weights_digest(settings: object, weights: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of settings and of the names, the types and the values of weights."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(weights):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def wait_for_all(world_size: int) -> None:
    """Wait until all processes have written their shards."""
    if world_size > 1:
        dist.barrier(dist.new_group(backend="gloo", timeout=ENCODING_TIMEOUT))
