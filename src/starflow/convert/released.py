"""The released implementation's names, mapped to this project's in one place: constructor arguments and parameters."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from starflow.convert.checkpoint import open_checkpoint
from starflow.errors import StarflowError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow

DENOISER_LAYERS = 8
DENOISER_PREFIX = "learnable_self_denoiser."

# What a released checkpoint carries beside its parameters and means nothing: recomputed masks, tables and statistics.
MEANINGLESS_BUFFERS = re.compile(r"var|blocks\.\d+\.attn_mask|feat_rope\.freqs_(cos|sin)")

# The constructor's arguments that have one supported value, which is not its default: they must be given.
REQUIRED_ARGUMENTS = {
    "patch_size": 1,
    "rope": True,
    "sos": True,
    "cond_top_only": True,
    "use_softplus": True,
    "use_final_norm": True,
    "seq_order": "L2R",
}
# Those whose default is the supported value: they may be left out.
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
# Those that the functions below read, and those that change nothing about the model.
# fmt: off
READ_ARGUMENTS = frozenset([
    "in_channels", "img_size", "channels", "top_block_channels", "num_blocks", "layers_per_block", "head_dim",
    "pt_seq_len", "txt_dim", "soft_clip", "learnable_self_denoiser", "conditional_denoiser", "temporal_causal",
    "denoiser_window", "shallow_block_local",
])
# fmt: on
INERT_ARGUMENTS = frozenset(["txt_size", "use_checkpoint", "use_checkpoint_mlp"])

MAX_LISTED = 8  # problems named in an error; a wrong configuration has hundreds

# (released, native) parts of a parameter's name
RENAMES = (
    ("sos_embed", "sos"),
    ("proj_txt.", "proj_text."),
    ("attn_blocks.", "transformer.layers."),
    ("mlp.main.0.", "mlp.up."),
    ("mlp.main.2.", "mlp.down."),
    ("final_norm.", "transformer.final_norm."),
)


def native_name(released: str) -> str:
    """A released parameter's name within the module that owns it (the denoiser's prefix taken off)."""
    name = released.removeprefix(DENOISER_PREFIX)
    for theirs, ours in RENAMES:
        name = name.replace(theirs, ours)
    return name


def released_name(native: str, prefix: str = "") -> str:
    """The inverse of `native_name`; the denoiser's parameters have `prefix=DENOISER_PREFIX`."""
    for theirs, ours in RENAMES:
        native = native.replace(ours, theirs)
    return prefix + native


def released_parameters(flow: StarFlow, denoiser: CausalDenoiser | None) -> dict[str, tuple[int, ...]]:
    """Released name and shape of every parameter of the models."""
    parts: list[tuple[str, nn.Module]] = [("", flow)]
    if denoiser is not None:
        parts.append((DENOISER_PREFIX, denoiser))
    return {
        released_name(name, prefix): tuple(parameter.shape)
        for prefix, module in parts
        for name, parameter in module.named_parameters()
    }


def split_checkpoint(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint that fits as those of `flow` and `denoiser`, in native names, and `buffers`."""
    parts: dict[str, dict[str, Tensor]] = {"flow": {}, "denoiser": {}, "buffers": {}}
    for name, tensor in tensors.items():
        if MEANINGLESS_BUFFERS.fullmatch(name):
            parts["buffers"][name] = tensor
        else:
            parts["denoiser" if name.startswith(DENOISER_PREFIX) else "flow"][native_name(name)] = tensor
    return parts


def misfits(flow: StarFlow, denoiser: CausalDenoiser | None, tensors: Mapping[str, Tensor]) -> list[str]:
    """All that keeps a checkpoint from being these models: missing and unknown names, shapes that differ."""
    expected = released_parameters(flow, denoiser)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not MEANINGLESS_BUFFERS.fullmatch(name)}
    problems = [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    problems += [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    unknown = sorted(found.keys() - expected.keys())
    if denoiser is None and any(name.startswith(DENOISER_PREFIX) for name in unknown):
        problems.append("it has a denoiser, the configuration has none")
        unknown = [name for name in unknown if not name.startswith(DENOISER_PREFIX)]
    return problems + [f"unknown {name}" for name in unknown]


def listed(problems: list[str]) -> str:
    """Problems on one line, the first of them if they are many."""
    more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    return "; ".join(problems[:MAX_LISTED]) + more


def flow_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The released constructor's arguments → those of `StarFlow`.

    Raises StarflowError for an argument that is missing, unknown, or has a value that the released models never have.
    """
    _check_arguments(config)
    shallow_layers, deep_layers = _layers(config)
    return {
        "latent_channels": _given(config, "in_channels"),
        "shallow_layers": shallow_layers,
        "deep_layers": deep_layers,
        "shallow_width": _given(config, "channels"),
        "deep_width": config.get("top_block_channels") or _given(config, "channels"),
        "head_dim": config.get("head_dim", 64),
        "text_width": _given(config, "txt_dim"),
        "position_length": _position_length(config),
        "soft_clip": config.get("soft_clip", 0),
    }


def denoiser_arguments(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The released constructor's arguments → those of `CausalDenoiser`, or None when the model has none."""
    if not config.get("learnable_self_denoiser"):
        return None
    return {
        "latent_channels": _given(config, "in_channels"),
        "width": _given(config, "channels"),
        "num_layers": DENOISER_LAYERS,
        "head_dim": config.get("head_dim", 64),
        "text_width": _given(config, "txt_dim") if config.get("conditional_denoiser") else None,
        "position_length": _position_length(config),
        "temporal_causal": _given(config, "temporal_causal"),
        "window": _given(config, "denoiser_window"),
    }


def _given(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise StarflowError(f"the configuration does not give {name}")
    return config[name]


def _check_arguments(config: Mapping[str, Any]) -> None:
    for name, value in REQUIRED_ARGUMENTS.items():
        if _given(config, name) != value:
            raise StarflowError(f"cannot convert a model with {name}={config[name]!r}: only {value!r} is supported")
    for name, value in OPTIONAL_ARGUMENTS.items():
        if config.get(name, value) != value:
            raise StarflowError(f"cannot convert a model with {name}={config[name]!r}: only {value!r} is supported")
    if config.get("temporal_causal") and not config.get("shallow_block_local"):
        raise StarflowError("cannot convert a video model with shallow_block_local=False: only True is supported")
    known = {*REQUIRED_ARGUMENTS, *OPTIONAL_ARGUMENTS, *READ_ARGUMENTS, *INERT_ARGUMENTS}
    if unknown := sorted(config.keys() - known):
        raise StarflowError(f"the configuration has the unknown argument {unknown[0]}{did_you_mean(unknown[0], known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest of the known ones, if one is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _layers(config: Mapping[str, Any]) -> tuple[list[int], int]:
    layers = list(_given(config, "layers_per_block"))
    if len(layers) != config.get("num_blocks", len(layers)):
        raise StarflowError(f"layers_per_block lists {len(layers)} blocks, num_blocks says {config['num_blocks']}")
    return layers[:-1], layers[-1]


def _position_length(config: Mapping[str, Any]) -> float:
    return config.get("pt_seq_len") or _given(config, "img_size") / config["patch_size"]


def build(config: Mapping[str, Any]) -> tuple[StarFlow, CausalDenoiser | None]:
    """Flow and denoiser for the released constructor's arguments, on the meta device: names and shapes, no weights.

    Raises StarflowError for arguments that make no released model.
    """
    flow, denoiser = flow_arguments(config), denoiser_arguments(config)
    try:
        with torch.device("meta"):
            return StarFlow(**flow), None if denoiser is None else CausalDenoiser(**denoiser)
    except ValueError as error:
        raise StarflowError(f"the configuration makes no model: {error}") from None


def load_released(config: Mapping[str, Any], checkpoint: Path) -> tuple[StarFlow, CausalDenoiser | None]:
    """Flow and denoiser from the released constructor's arguments and a released checkpoint, whose file stays mapped.

    Raises StarflowError for a file that is not such a checkpoint, or with other names or shapes than the models have.
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
