"""Converting a released checkpoint to a folder for `StarFlowPipeline.from_pretrained`, and back.

All files are mapped into memory. Tensors are copied from file to file; only a cast needs memory for them.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from starflow.convert.checkpoint import open_checkpoint
from starflow.convert.presets import PRESETS, ReleasedModel, released_model
from starflow.convert.released import DENOISER_PREFIX, build, listed, misfits, released_name, split_checkpoint
from starflow.convert.stored import MAX_SHARD_BYTES, open_safetensors, open_sharded, write_safetensors, write_sharded
from starflow.errors import StarflowError, UsageError
from starflow.media.files import atomic_write

MODEL_CARD = "---\nlicense: other\n---\n\nConverted by starflow from {checkpoint}. License: {license}.\n"
# The buffers of the checkpoint are kept here, so that `export` restores the whole checkpoint.
BUFFERS_NAME = "released_buffers.safetensors"


@dataclass(frozen=True)
class Converted:
    """What was written: the number of parameters, their bytes, and the number of files with weights."""

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
    """Convert a released checkpoint to a folder in the layout of `from_pretrained`.

    Args:
        checkpoint: see `open_checkpoint`.
        model: the configuration. The checkpoint must have exactly the names and shapes of this model.
        output: the folder to write. It exists only once it is complete.
        dtype: of the weights; None keeps that of the checkpoint. A cast needs memory for one file of weights.
        max_shard_bytes: the most bytes of weights in a file; more weights need several files.

    Raises:
        UsageError: the output folder exists.
        StarflowError: the checkpoint cannot be read or does not fit, a weight is not finite, or the disk is full.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} exists: remove it, or choose another folder")
    flow, denoiser = build(model.arguments)
    tensors = open_checkpoint(checkpoint)
    if problems := misfits(flow, denoiser, tensors):
        raise StarflowError(f"{checkpoint} does not fit the configuration: {listed(problems)}{_what_fits(tensors)}")
    parts = split_checkpoint(tensors)
    weights = [*parts["flow"].values(), *parts["denoiser"].values()]
    num_bytes = _num_bytes(weights, dtype)
    _require_space(output, num_bytes + _num_bytes(parts["buffers"].values()))

    num_files = 0
    with atomic_write(output) as folder:
        for name, module in (("flow", flow), ("denoiser", denoiser)):
            if module is not None:
                (folder / name).mkdir(parents=True)
                module.save_config(folder / name)
                num_files += write_sharded(folder / name, parts[name], dtype, max_shard_bytes)
        if parts["buffers"]:
            # Small, and copied because buffers that share memory cannot be written.
            write_safetensors(folder / BUFFERS_NAME, {name: b.clone() for name, b in parts["buffers"].items()})
        index = _model_index(model, has_denoiser=denoiser is not None)
        if model.license is not None:
            (folder / "README.md").write_text(MODEL_CARD.format(checkpoint=checkpoint.name, license=model.license))
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return Converted(sum(tensor.numel() for tensor in weights), num_bytes, num_files)


def export(folder: Path, output: Path) -> Converted:
    """Write the flow and the denoiser of a model as a released checkpoint: the inverse of `convert`, bit for bit.

    Args:
        folder: what `convert` or `save_pretrained` wrote.
        output: the `.pth` file to write.

    Raises:
        UsageError: the file exists, or the model takes actions.
        StarflowError: the weights in the folder cannot be read, or the disk is full.
    """
    if output.exists():
        raise UsageError(f"{output} exists: remove it, or choose another name")
    if not (folder / "flow").is_dir():
        raise StarflowError(f"{folder} does not hold a model: it has no folder named flow")
    tensors: dict[str, Tensor] = {}
    for name, prefix in (("flow", ""), ("denoiser", DENOISER_PREFIX)):
        if (folder / name).is_dir():
            tensors |= {released_name(key, prefix): tensor for key, tensor in open_sharded(folder / name).items()}
    if any("proj_action" in name for name in tensors):
        raise UsageError(f"the model in {folder} takes actions, which released checkpoints do not have")
    written = Converted(sum(tensor.numel() for tensor in tensors.values()), _num_bytes(tensors.values()), 1)
    if (folder / BUFFERS_NAME).is_file():
        tensors |= open_safetensors(folder / BUFFERS_NAME)
    _require_space(output, _num_bytes(tensors.values()))
    with atomic_write(output) as path:
        torch.save(tensors, path)
    return written


def _num_bytes(tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> int:
    """Bytes of tensors, in a dtype or each in its own dtype."""
    return sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in tensors)


def _require_space(output: Path, num_bytes: int) -> None:
    """Raise StarflowError unless the disk of `output` has `num_bytes` free."""
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StarflowError(
            f"not enough disk space for {output}: it needs {num_bytes / 1e9:.1f} GB, and {folder} has only "
            f"{free / 1e9:.1f} GB"
        )


def _what_fits(tensors: Mapping[str, Tensor]) -> str:
    """The end of the message for a checkpoint that does not fit: the preset that it fits, if there is one."""
    for name in PRESETS:
        if not misfits(*build(released_model(name).arguments), tensors):
            return f". It fits {name}: convert it with --config {name}"
    return ""


def _model_index(model: ReleasedModel, *, has_denoiser: bool) -> dict[str, Any]:
    """The content of `model_index.json`, with the places of the VAE and the text encoder (see `components`)."""
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
