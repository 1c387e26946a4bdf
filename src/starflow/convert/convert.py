"""A released checkpoint → a folder for `StarFlowPipeline.from_pretrained`, and back; one tensor in memory at a time."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from starflow.convert.checkpoint import open_checkpoint
from starflow.convert.presets import PRESETS, ReleasedModel, released_model
from starflow.convert.released import DENOISER_PREFIX, build, listed, misfits, released_name, split_checkpoint
from starflow.convert.stored import (
    MAX_SHARD_BYTES,
    StoredTensor,
    StoredTensors,
    open_safetensors,
    open_sharded,
    total_bytes,
    write_safetensors,
    write_sharded,
)
from starflow.errors import StarflowError, UsageError
from starflow.media.files import atomic_write
from starflow.weights.finite import is_finite

# Tensors of the checkpoint that are no parameters are kept here, so that `export` gives back all of it.
BUFFERS_NAME = "released_buffers.safetensors"


@dataclass(frozen=True)
class Converted:
    """What was written: parameters, bytes of weights, and files that hold them."""

    num_parameters: int
    num_bytes: int
    num_files: int


def convert(
    checkpoint: Path,
    model: ReleasedModel,
    output: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Converted:
    """Write a released checkpoint as a folder in the layout of `from_pretrained`.

    Args:
        checkpoint: see `open_checkpoint`.
        model: the configuration that the checkpoint must fit, name by name and shape by shape.
        output: the folder; it appears when it is complete.
        dtype: of the weights; None for those of the checkpoint.
        max_shard_bytes: weights of more than this are split into several files.

    Raises:
        UsageError: the folder is there already.
        StarflowError: the checkpoint cannot be read or does not fit, a weight is not finite, or the disk is too full.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already: remove it, or choose another folder")
    flow, denoiser = build(model.arguments)
    tensors = open_checkpoint(checkpoint)
    if problems := misfits(flow, denoiser, tensors):
        raise StarflowError(f"{checkpoint} does not fit the configuration: {listed(problems)}{_what_fits(tensors)}")
    parts = split_checkpoint(tensors)
    weights = {name: _as_written(parts[name], dtype) for name in ("flow", "denoiser")}
    num_bytes = sum(map(total_bytes, weights.values()))
    require_space(output, num_bytes + total_bytes(parts["buffers"]))

    num_files = 0
    with atomic_write(output) as folder:
        for name, module in (("flow", flow), ("denoiser", denoiser)):
            if module is not None:
                (folder / name).mkdir(parents=True)
                module.save_config(folder / name)
                num_files += write_sharded(folder / name, weights[name], max_shard_bytes)
        if parts["buffers"]:
            write_safetensors(folder / BUFFERS_NAME, parts["buffers"])
        index = _model_index(model, has_denoiser=denoiser is not None)
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return Converted(sum(prod(t.shape) for part in weights.values() for t in part.values()), num_bytes, num_files)


def export(folder: Path, output: Path) -> Converted:
    """Write a model's flow and denoiser as a released checkpoint: the inverse of `convert`, bit for bit.

    Args:
        folder: what `convert` or `save_pretrained` wrote.
        output: the `.pth` file.

    Raises:
        StarflowError: the folder's weights cannot be read, or the disk is too full.
    """
    if not (folder / "flow").is_dir():
        raise StarflowError(f"{folder} holds no model: there is no folder flow in it")
    tensors: dict[str, StoredTensor] = {}
    for name, prefix in (("flow", ""), ("denoiser", DENOISER_PREFIX)):
        if (folder / name).is_dir():
            tensors |= {released_name(key, prefix): tensor for key, tensor in open_sharded(folder / name).items()}
    num_parameters, num_bytes = sum(prod(t.shape) for t in tensors.values()), total_bytes(tensors)
    if (folder / BUFFERS_NAME).is_file():
        tensors |= open_safetensors(folder / BUFFERS_NAME)
    require_space(output, total_bytes(tensors))
    with atomic_write(output) as path:
        # The tensors are maps of their files, which torch.save copies piece by piece: they are never in memory.
        torch.save({name: tensor.read() for name, tensor in tensors.items()}, path)
    return Converted(num_parameters, num_bytes, 1)


def require_space(output: Path, num_bytes: int) -> None:
    """Raise StarflowError unless the disk that `output` will be on has room for `num_bytes`."""
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StarflowError(
            f"not enough disk for {output}: it needs {num_bytes / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free"
        )


def _as_written(tensors: StoredTensors, dtype: torch.dtype | None) -> dict[str, StoredTensor]:
    """Parameters in the dtype to write, each refused as it is read if it is not finite."""

    def checked(name: str, stored: StoredTensor) -> StoredTensor:
        def read() -> Tensor:
            tensor = stored.read()
            if not is_finite(tensor):
                raise StarflowError(
                    f"the weight {name} is not finite: the checkpoint is damaged, or {tensor.dtype} too narrow for it"
                )
            return tensor

        return StoredTensor(stored.shape, stored.dtype, read)

    return {name: checked(name, tensor if dtype is None else tensor.cast(dtype)) for name, tensor in tensors.items()}


def _what_fits(tensors: StoredTensors) -> str:
    """The end of a message about a checkpoint that does not fit: the preset that does, if there is one."""
    for name in PRESETS:
        if not misfits(*build(released_model(name).arguments), tensors):
            return f" - it fits {name}: convert it with --config {name}"
    return ""


def _model_index(model: ReleasedModel, *, has_denoiser: bool) -> dict[str, Any]:
    """`model_index.json`: VAE and text encoder are named, not listed as parts that lie in the folder."""
    parts: Mapping[str, Any] = {
        "flow": ["starflow.flow.model", "StarFlow"],
        "denoiser": ["starflow.flow.denoiser", "CausalDenoiser"] if has_denoiser else [None, None],
    }
    return {
        "_class_name": "StarFlowPipeline",
        "_diffusers_version": diffusers.__version__,
        "_components": {"vae": str(model.vae), "text_encoder": str(model.text_encoder)},
        **parts,
        **model.settings,
    }
