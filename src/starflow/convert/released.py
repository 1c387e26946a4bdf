"""Mapping the parameter names of the released implementation to those of this project."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from starflow.convert.arguments import denoiser_arguments, flow_arguments
from starflow.convert.checkpoint import open_checkpoint
from starflow.errors import StarflowError, UsageError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow

DENOISER_PREFIX = "learnable_self_denoiser."

# Buffers in released checkpoints that are not needed: masks, tables and statistics.
UNUSED_BUFFERS = re.compile(r"var|blocks\.\d+\.attn_mask|feat_rope\.freqs_(cos|sin)")

MAX_LISTED = 8  # problems in an error message; a wrong configuration has hundreds

# Parts of parameter names: (released, native).
RENAMES = (
    ("sos_embed", "sos"),
    ("proj_txt.", "proj_text."),
    ("attn_blocks.", "transformer.layers."),
    ("mlp.main.0.", "mlp.up."),
    ("mlp.main.2.", "mlp.down."),
    ("final_norm.", "transformer.final_norm."),
)


def native_name(released: str) -> str:
    """The name that a released parameter has in its module, the flow or the denoiser."""
    name = released.removeprefix(DENOISER_PREFIX)
    for theirs, ours in RENAMES:
        name = name.replace(theirs, ours)
    return name


def released_name(native: str, prefix: str = "") -> str:
    """The inverse of `native_name`. For parameters of the denoiser, `prefix` is `DENOISER_PREFIX`."""
    for theirs, ours in RENAMES:
        native = native.replace(ours, theirs)
    return prefix + native


def released_parameters(flow: StarFlow, denoiser: CausalDenoiser | None) -> dict[str, tuple[int, ...]]:
    """Released names and shapes of all parameters of the models."""
    parts: list[tuple[str, nn.Module]] = [("", flow)]
    if denoiser is not None:
        parts.append((DENOISER_PREFIX, denoiser))
    return {
        released_name(name, prefix): tuple(parameter.shape)
        for prefix, module in parts
        for name, parameter in module.named_parameters()
    }


def split_checkpoint(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split a checkpoint that fits: `flow` and `denoiser` with native names, and `buffers`."""
    parts: dict[str, dict[str, Tensor]] = {"flow": {}, "denoiser": {}, "buffers": {}}
    for name, tensor in tensors.items():
        if UNUSED_BUFFERS.fullmatch(name):
            parts["buffers"][name] = tensor
        else:
            parts["denoiser" if name.startswith(DENOISER_PREFIX) else "flow"][native_name(name)] = tensor
    return parts


def misfits(flow: StarFlow, denoiser: CausalDenoiser | None, tensors: Mapping[str, Tensor]) -> list[str]:
    """The differences between a checkpoint and the models: missing names, unknown names and other shapes."""
    expected = released_parameters(flow, denoiser)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not UNUSED_BUFFERS.fullmatch(name)}
    problems = [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    problems += [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    unknown = sorted(found.keys() - expected.keys())
    if denoiser is None and any(name.startswith(DENOISER_PREFIX) for name in unknown):
        problems.append("it has a denoiser, but the configuration does not")
        unknown = [name for name in unknown if not name.startswith(DENOISER_PREFIX)]
    return problems + [f"unknown {name}" for name in unknown]


def listed(problems: list[str]) -> str:
    """Problems on one line; only the first `MAX_LISTED` are named."""
    more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    return "; ".join(problems[:MAX_LISTED]) + more


def build(config: Mapping[str, Any]) -> tuple[StarFlow, CausalDenoiser | None]:
    """The flow and the denoiser for arguments of the released constructor, on the meta device, without weights.

    Raises UsageError for unsupported arguments.
    """
    flow, denoiser = flow_arguments(config), denoiser_arguments(config)
    try:
        with torch.device("meta"):
            return StarFlow(**flow), None if denoiser is None else CausalDenoiser(**denoiser)
    except ValueError as error:
        raise UsageError(f"no model has this configuration: {error}") from None


def load_released(config: Mapping[str, Any], checkpoint: Path) -> tuple[StarFlow, CausalDenoiser | None]:
    """The flow and the denoiser for arguments of the released constructor, with mapped weights of a checkpoint.

    Raises StarflowError if the file is not a released checkpoint, or its names or shapes do not fit.
    """
    flow, denoiser = build(config)
    tensors = open_checkpoint(checkpoint)
    if problems := misfits(flow, denoiser, tensors):
        raise StarflowError(f"{checkpoint} does not fit the configuration: {listed(problems)}")
    parts = split_checkpoint(tensors)
    for name, module in (("flow", flow), ("denoiser", denoiser)):
        if module is not None:
            module.load_state_dict(parts[name], assign=True)
    return flow, denoiser
