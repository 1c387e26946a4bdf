"""The released implementation's names, mapped to this project's in one place: constructor arguments and parameters."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from starflow.errors import StarflowError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow

DENOISER_LAYERS = 8
DENOISER_PREFIX = "learnable_self_denoiser."

# What a released checkpoint carries beside its parameters and means nothing: recomputed masks, tables and statistics.
MEANINGLESS_BUFFERS = re.compile(r"var|blocks\.\d+\.attn_mask|feat_rope\.freqs_(cos|sin)")

# Arguments that the released models always have at these values; anything else is a model that this code is not.
REQUIRED_ARGUMENTS = {
    "patch_size": 1,
    "rope": True,
    "sos": True,
    "cond_top_only": True,
    "use_softplus": True,
    "use_final_norm": True,
    "seq_order": "L2R",
}

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


def split_state_dict(released: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A released state dict → those of the flow and of the denoiser, in native names, without meaningless buffers.

    Raises StarflowError that lists names that no released model has because they are this project's own.
    """
    flow: dict[str, Tensor] = {}
    denoiser: dict[str, Tensor] = {}
    foreign = []
    for name, tensor in released.items():
        if MEANINGLESS_BUFFERS.fullmatch(name):
            continue
        prefix, target = (DENOISER_PREFIX, denoiser) if name.startswith(DENOISER_PREFIX) else ("", flow)
        native = native_name(name)
        if released_name(native, prefix) != name:
            foreign.append(name)
        target[native] = tensor
    if foreign:
        raise StarflowError("the checkpoint has unknown names: " + ", ".join(sorted(foreign)))
    return flow, denoiser


def flow_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The released constructor's arguments → those of `StarFlow`.

    Raises StarflowError for an argument value that the released models never have.
    """
    for name, value in REQUIRED_ARGUMENTS.items():
        if config.get(name, value) != value:
            raise StarflowError(f"cannot convert a model with {name}={config[name]!r}: only {value!r} is supported")
    shallow_layers, deep_layers = _layers(config)
    return {
        "latent_channels": config["in_channels"],
        "shallow_layers": shallow_layers,
        "deep_layers": deep_layers,
        "shallow_width": config["channels"],
        "deep_width": config.get("top_block_channels") or config["channels"],
        "head_dim": config["head_dim"],
        "text_width": config["txt_dim"],
        "position_length": _position_length(config),
        "soft_clip": config.get("soft_clip", 0),
    }


def denoiser_arguments(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The released constructor's arguments → those of `CausalDenoiser`, or None when the model has none."""
    if not config.get("learnable_self_denoiser"):
        return None
    return {
        "latent_channels": config["in_channels"],
        "width": config["channels"],
        "num_layers": DENOISER_LAYERS,
        "head_dim": config["head_dim"],
        "text_width": config["txt_dim"] if config.get("conditional_denoiser") else None,
        "position_length": _position_length(config),
        "temporal_causal": config["temporal_causal"],
        "window": config["denoiser_window"],
    }


def _layers(config: Mapping[str, Any]) -> tuple[list[int], int]:
    layers = list(config["layers_per_block"])
    if len(layers) != config.get("num_blocks", len(layers)):
        raise StarflowError(f"layers_per_block lists {len(layers)} blocks, num_blocks says {config['num_blocks']}")
    return layers[:-1], layers[-1]


def _position_length(config: Mapping[str, Any]) -> float:
    return config.get("pt_seq_len") or config["img_size"] / config.get("patch_size", 1)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str, prefix: str = "") -> None:
    """Load `state` (native names) into `module`; on a meta-device module the tensors are taken as they are.

    Raises StarflowError that lists every missing, unknown or wrongly shaped name as the released file (with its
    `prefix`) has it.
    """
    own = module.state_dict()
    problems = [f"missing {released_name(name, prefix)}" for name in sorted(own.keys() - state.keys())]
    problems += [f"unknown {released_name(name, prefix)}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{released_name(name, prefix)} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if problems:
        raise StarflowError(f"the checkpoint does not fit the {what}: " + "; ".join(problems))
    module.load_state_dict(state, assign=any(parameter.is_meta for parameter in module.parameters()))


def build(config: Mapping[str, Any]) -> tuple[StarFlow, CausalDenoiser | None]:
    """Untrained flow and denoiser for the released constructor's arguments."""
    arguments = denoiser_arguments(config)
    return StarFlow(**flow_arguments(config)), None if arguments is None else CausalDenoiser(**arguments)


def load_released(config: Mapping[str, Any], checkpoint: Path) -> tuple[StarFlow, CausalDenoiser | None]:
    """Flow and denoiser from the released constructor's arguments and a released `.pth` state dict.

    Raises StarflowError for a file that is not such a state dict, or with other names or shapes than the model has.
    """
    try:
        released = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise StarflowError(f"cannot read {checkpoint} as a released checkpoint: {reason}") from error
    if not isinstance(released, dict) or not all(isinstance(value, Tensor) for value in released.values()):
        raise StarflowError(f"{checkpoint} is not a state dict of tensors")
    flow, denoiser = build(config)
    flow_state, denoiser_state = split_state_dict(released)
    load_strictly(flow, flow_state, "flow")
    if denoiser is not None:
        load_strictly(denoiser, denoiser_state, "denoiser", DENOISER_PREFIX)
    elif denoiser_state:
        raise StarflowError("the checkpoint has a denoiser, the configuration has none")
    return flow, denoiser
