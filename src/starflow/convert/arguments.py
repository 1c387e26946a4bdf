"""The constructor arguments of the released implementation, checked and mapped to those of this project.

The module loads without torch: the presets need it, and `starflow` reads those before it imports a model.
"""

from collections.abc import Mapping, Set
from typing import Any

from starflow.errors import UsageError, nearest_name

DENOISER_LAYERS = 8

# Arguments of the constructor with one supported value, which is not the default. They must be given.
REQUIRED_ARGUMENTS = {
    "patch_size": 1,
    "rope": True,
    "sos": True,
    "cond_top_only": True,
    "use_softplus": True,
    "use_final_norm": True,
    "seq_order": "L2R",
}
# Arguments with one supported value, which is the default. They may be left out.
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


def flow_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the released constructor → arguments of `StarFlow`.

    Raises UsageError for an argument that is missing or unknown, or has an unsupported value.
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
        close = nearest_name(unknown[0], known)
        hint = f": did you mean {close}?" if close else ""
        raise UsageError(f"the configuration has the unknown argument {unknown[0]}{hint}")


def _layers(config: Mapping[str, Any]) -> tuple[list[int], int]:
    layers = list(given(config, "layers_per_block"))
    if len(layers) != config.get("num_blocks", len(layers)):
        raise UsageError(f"layers_per_block lists {len(layers)} blocks, but num_blocks is {config['num_blocks']}")
    return layers[:-1], layers[-1]


def _position_length(config: Mapping[str, Any]) -> float:
    return config.get("pt_seq_len") or given(config, "img_size") / config["patch_size"]
