"""Mapping the names of the released implementation to those of this project: constructor arguments and parameters."""

import difflib
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from starflow.convert.checkpoint import open_checkpoint
from starflow.errors import StarflowError, UsageError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow

DENOISER_LAYERS = 8
DENOISER_PREFIX = "learnable_self_denoiser."

# Buffers in released checkpoints that are not needed: masks, tables and statistics.
UNUSED_BUFFERS = re.compile(r"var|blocks\.\d+\.attn_mask|feat_rope\.freqs_(cos|sin)")

# Arguments of the constructor with one supported value that is not the default. They must be given.
REQUIRED_ARGUMENTS = {
    "patch_size": 1,
    "rope": True,
    "sos": True,
    "cond_top_only": True,
    "use_softplus": True,
    "use_final_norm": True,
    "seq_order": "L2R",
}
# Arguments whose one supported value is the default. They may be left out.
OPTIONAL_ARGUMENTS = {
    "num_heads": None,
    "num_kv_heads": None,
    "use_swiglu": False,
    "use_bias": True,
    "use_qk_norm": False,
    "use_post_norm": False,
    "hf_style_rope": False,
    "norm_type": "layer_norm",
    "use_pretrained_lm": None,
    "use_mm_attn": False,
    "noise_embed_denoiser": False,
    "local_attn_window": None,
}
# Arguments that the functions below read, and arguments that do not affect the model.
# fmt: off
READ_ARGUMENTS = frozenset([
    "in_channels", "img_size", "channels", "top_block_channels", "num_blocks", "layers_per_block", "head_dim",
    "pt_seq_len", "txt_dim", "soft_clip", "learnable_self_denoiser", "conditional_denoiser", "temporal_causal",
    "denoiser_window", "shallow_block_local",
])
# fmt: on
INERT_ARGUMENTS = frozenset(["txt_size", "use_checkpoint", "use_checkpoint_mlp"])

SUPPORTED_VALUES = REQUIRED_ARGUMENTS | OPTIONAL_ARGUMENTS
CONSTRUCTOR_ARGUMENTS = {*SUPPORTED_VALUES, *READ_ARGUMENTS, *INERT_ARGUMENTS}

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


def flow_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the released constructor → arguments of `StarFlow`.

    Raises UsageError for an argument that is missing, unknown, or has a value that the released models never have.
    """
    for name in REQUIRED_ARGUMENTS:
        given(config, name)
    check_arguments(config, SUPPORTED_VALUES, CONSTRUCTOR_ARGUMENTS)
    if config.get("temporal_causal") and not config.get("shallow_block_local"):
        raise UsageError("cannot convert a video model with shallow_block_local=False: only True is supported")
    shallow_layers, deep_layers = _layers(config)
    return {
        "latent_channels": given(config, "in_channels"),
        "shallow_layers": shallow_layers,
        "deep_layers": deep_layers,
        "shallow_width": given(config, "channels"),
        "deep_width": config.get("top_block_channels") or given(config, "channels"),
        "head_dim": config.get("head_dim", 64),
        "text_width": given(config, "txt_dim"),
        "position_length": _position_length(config),
        "soft_clip": config.get("soft_clip", 0),
    }


def denoiser_arguments(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of the released constructor → arguments of `CausalDenoiser`, or None for a model without one."""
    if not config.get("learnable_self_denoiser"):
        return None
    return {
        "latent_channels": given(config, "in_channels"),
        "width": given(config, "channels"),
        "num_layers": DENOISER_LAYERS,
        "head_dim": config.get("head_dim", 64),
        "text_width": given(config, "txt_dim") if config.get("conditional_denoiser") else None,
        "position_length": _position_length(config),
        "temporal_causal": given(config, "temporal_causal"),
        "window": given(config, "denoiser_window"),
    }


def given(arguments: Mapping[str, Any], name: str) -> Any:
    """The value of an argument that must be given. Raises UsageError if it is not."""
    if arguments.get(name) is None:
        raise UsageError(f"the configuration does not give {name}")
    return arguments[name]


def check_arguments(arguments: Mapping[str, Any], supported: Mapping[str, Any], known: Set[str]) -> None:
    """Raise UsageError for an argument with another value than the supported one, or with an unknown name."""
    for name, value in supported.items():
        if arguments.get(name, value) != value:
            raise UsageError(f"cannot convert a model with {name}={arguments[name]!r}: only {value!r} is supported")
    if unknown := sorted(arguments.keys() - known):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f": did you mean {close[0]}?" if close else ""
        raise UsageError(f"the configuration has the unknown argument {unknown[0]}{hint}")


def _layers(config: Mapping[str, Any]) -> tuple[list[int], int]:
    layers = list(given(config, "layers_per_block"))
    if len(layers) != config.get("num_blocks", len(layers)):
        raise UsageError(f"layers_per_block lists {len(layers)} blocks, but num_blocks is {config['num_blocks']}")
    return layers[:-1], layers[-1]


def _position_length(config: Mapping[str, Any]) -> float:
    return config.get("pt_seq_len") or given(config, "img_size") / config["patch_size"]


def build(config: Mapping[str, Any]) -> tuple[StarFlow, CausalDenoiser | None]:
    """The flow and the denoiser for arguments of the released constructor, on the meta device, without weights.

    Raises UsageError for arguments that no released model has.
    """
    flow, denoiser = flow_arguments(config), denoiser_arguments(config)
    try:
        with torch.device("meta"):
            return StarFlow(**flow), None if denoiser is None else CausalDenoiser(**denoiser)
    except ValueError as error:
        raise UsageError(f"no model has this configuration: {error}") from None


def load_released(config: Mapping[str, Any], checkpoint: Path) -> tuple[StarFlow, CausalDenoiser | None]:
    """The flow and the denoiser for arguments of the released constructor, with mapped weights of a checkpoint.

    Raises StarflowError if the file is not a released checkpoint, or has other names or shapes than the models.
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
