"""Components of a pipeline that are not in the folder of the model: the VAE and the text encoder.

The `model_index.json` of the model says where they are:

    "_components": {"vae": "Wan-AI/Wan2.2-TI2V-5B-Diffusers/vae", "text_encoder": "google/flan-t5-xl"}

Each is a folder, or `owner/name` or `owner/name/subfolder` on the Hugging Face hub. The tokenizer is in the folder of
the text encoder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starflow.errors import StarflowError, UsageError
from starflow.weights.hub import hub_file, only_local_if_unreachable, say_weights

if TYPE_CHECKING:
    import torch

# The configurations of the released models' components, known without a network, as far as they decide sizes.
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers/vae": {
        "_class_name": "AutoencoderKLWan",
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_temporal": 4,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    },
    "stabilityai/sd-vae-ft-ema": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 4,
        "layers_per_block": 2,
        "sample_size": 256,
    },
    "google/flan-t5-xl": {
        "model_type": "t5",
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    },
}


@dataclass(frozen=True)
class Component:
    """The place of a VAE or a text encoder: a folder, or a repository on the hub and a subfolder in it."""

    source: str
    subfolder: str = ""

    @classmethod
    def parse(cls, name: str) -> "Component":
        """Parse the path of a folder, `owner/name` or `owner/name/subfolder`. Raises UsageError for anything else."""
        if name and Path(name).is_dir():
            return cls(str(Path(name).resolve()))
        owner, _, rest = name.partition("/")
        repository, _, subfolder = rest.partition("/")
        if not owner or not repository or name.startswith((".", "~")):
            raise UsageError(f"no model at {name}: give a folder, or a hub id (owner/name or owner/name/subfolder)")
        return cls(f"{owner}/{repository}", subfolder)

    def __str__(self) -> str:
        return f"{self.source}/{self.subfolder}" if self.subfolder else self.source

    @property
    def is_local(self) -> bool:
        return Path(self.source).is_dir()

    def config(self) -> dict[str, Any]:
        """The content of its `config.json`, or its entry in `KNOWN_CONFIGS`.

        Raises StarflowError if the file cannot be downloaded or read.
        """
        if str(self) in KNOWN_CONFIGS:
            return KNOWN_CONFIGS[str(self)]
        filename = f"{self.subfolder}/config.json" if self.subfolder else "config.json"
        path = Path(self.source) / filename if self.is_local else hub_file(self.source, filename)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StarflowError(f"there is no model in {self}: its config.json is missing or damaged") from error


def spatial_factor(vae_config: Mapping[str, Any]) -> int:
    """Pixels per latent along each side of a frame, from the config of an `AutoencoderKLWan` or `AutoencoderKL`."""
    if "dim_mult" in vae_config:
        return 2 ** (len(vae_config["dim_mult"]) - 1) * (vae_config.get("patch_size") or 1)
    if "block_out_channels" in vae_config:
        return 2 ** (len(vae_config["block_out_channels"]) - 1)
    raise StarflowError("the VAE is neither an AutoencoderKLWan nor an AutoencoderKL")


def text_width(text_config: Mapping[str, Any]) -> int:
    """The width of the encodings of a T5 encoder, from its config."""
    if "d_model" not in text_config:
        raise StarflowError("the text encoder is not a T5")
    return text_config["d_model"]


def named_components(index: Mapping[str, Any]) -> dict[str, Component]:
    """The components that a `model_index.json` names, by the names of the parts."""
    return {name: Component.parse(source) for name, source in index.get("_components", {}).items()}


def part_config(folder: str, name: str, index: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a part of a model, which is in the model's folder or is named there; empty without the part.

    Args:
        folder: of the model, or its hub id.
        name: of the part, such as `flow`.
        index: the content of the model's `model_index.json`.

    Raises:
        StarflowError: the file cannot be downloaded or read.
    """
    components = named_components(index)
    if name in components:
        return components[name].config()
    if index.get(name, [None])[0] is None:
        return {}
    return Component(folder, name).config()


def load_components(
    index: Mapping[str, Any], dtype: "torch.dtype | Mapping[str, torch.dtype] | None" = None, **hub: Any
) -> dict[str, Any]:
    """Load the components that a `model_index.json` names.

    Args:
        index: the content of the file.
        dtype: of the weights, or those of each component by its name, and of the others as `default`; None keeps that
            of the files.
        hub: how to look on the hub, such as `cache_dir` and `local_files_only`.

    Returns:
        Those of `vae`, `text_encoder` and `tokenizer` that are named, as arguments for `from_pretrained`.

    Raises:
        StarflowError: a component cannot be found, downloaded or read.
    """
    loaded: dict[str, Any] = {}
    for name, component in named_components(index).items():
        try:
            own = dtype.get(name, dtype.get("default")) if isinstance(dtype, Mapping) else dtype
            loaded |= _load(name, component, own, hub)
        except Exception as error:
            raise StarflowError(f"cannot load the {name} {component}: {_reason(error, component)}") from error
    return loaded


def _load(name: str, component: Component, dtype: "torch.dtype | None", hub: Mapping[str, Any]) -> dict[str, Any]:
    """A component by its name; the text encoder with its tokenizer."""
    from diffusers import AutoModel
    from transformers import AutoTokenizer, T5EncoderModel

    reachable = hub if component.is_local else only_local_if_unreachable(hub)
    if not component.is_local and not hub:  # with options, the files may go elsewhere
        say_weights(component.source, component.subfolder)
    place = {**reachable, **({"subfolder": component.subfolder} if component.subfolder else {})}
    if name != "text_encoder":
        return {name: AutoModel.from_pretrained(component.source, torch_dtype=dtype, **place)}
    tokenizer = AutoTokenizer.from_pretrained(component.source, **place)
    encoder = T5EncoderModel.from_pretrained(component.source, dtype=dtype or "auto", **place)
    return {"tokenizer": tokenizer, name: encoder.eval()}


def _reason(error: Exception, component: Component) -> str:
    first_line = str(error).strip().partition("\n")[0]
    if component.is_local:
        return first_line
    return (
        f"{first_line} (for use without a network, run `hf download {component.source}` on a machine that has one, or "
        "name a folder with `starflow convert --vae … --text-encoder …`)"
    )
