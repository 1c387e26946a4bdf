"""LoRA adapters of a pipeline. PEFT computes them, and diffusers' mixins manage them; here, files are read and checked.

An adapter adds `alpha / r · B·A` to the weight matrix of a linear layer, where `A` is `(r, inputs)` and `B` is
`(outputs, r)` (LoRA, arXiv 2106.09685). A file holds both for each adapted layer, under the key names of diffusers:
`flow.LAYER.lora_A.weight` and `flow.LAYER.lora_B.weight`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE, LoraBaseMixin
from diffusers.utils import USE_PEFT_BACKEND
from safetensors import SafetensorError, safe_open
from torch import Tensor

from starflow.errors import StarflowError, UsageError
from starflow.flow.model import StarFlow
from starflow.flow.narrow import widen
from starflow.flow.transformer import MATRICES, Layer
from starflow.weights.hub import HUB_OPTIONS, hub_file

MOST_PROBLEMS = 5  # that an error names one by one


class LoraMixin(LoraBaseMixin):
    """The methods of diffusers for LoRA adapters, for a pipeline with a `StarFlow`."""

    _lora_loadable_modules = ["flow"]  # noqa: RUF012 (diffusers' own convention)
    flow: StarFlow

    @torch.inference_mode(False)  # the score is a gradient
    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        weight_name: str = LORA_WEIGHT_NAME_SAFE,
        **hub: Any,
    ) -> None:
        """Load an adapter. It becomes the only active one; `set_adapters` activates several, each with a weight.

        Args:
            pretrained_model_name_or_path_or_dict: a safetensors file, a folder or a hub id with such a file, or the
                tensors themselves, whose `alpha` is taken to be their rank.
            adapter_name: a new name; by default `default_0`, `default_1` and so on.
            weight_name: the file in the folder or on the hub.
            hub: options for the hub, those of `HUB_OPTIONS`.

        Raises:
            TypeError: an option is unknown.
            UsageError: the name is in use, or the layers of the flow are offloaded in groups.
            StarflowError: PEFT is not installed, there is no such adapter, it is damaged, or it is not for this model.
        """
        if unknown := hub.keys() - {*HUB_OPTIONS}:
            raise TypeError(f"load_lora_weights has no option {', '.join(sorted(unknown))}")
        require_peft()
        if _is_group_offload_enabled(self.flow):
            raise UsageError("load adapters before the layers are offloaded: they are moved in groups, which are fixed")
        if adapter_name in getattr(self.flow, "peft_config", {}):
            raise UsageError(f"there is an adapter called {adapter_name!r}: choose another adapter_name")
        source = pretrained_model_name_or_path_or_dict
        name = "that was given" if isinstance(source, Mapping) else str(source)
        tensors, metadata = (source, None) if isinstance(source, Mapping) else read_lora(source, weight_name, **hub)
        check_lora(tensors, self.flow, name)
        widen(self.flow)  # an adapter gets the precision of the matrices
        try:
            self.flow.load_lora_adapter(dict(tensors), prefix="flow", adapter_name=adapter_name, metadata=metadata)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise StarflowError(f"cannot load the LoRA {name}: {reason:.300}") from error
        self.flow.eval()  # without the dropout of training

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        flow_lora_layers: Mapping[str, Tensor],
        flow_lora_adapter_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `pytorch_lora_weights.safetensors`.

        Args:
            save_directory: the folder.
            flow_lora_layers: `peft.get_peft_model_state_dict(pipeline.flow)`.
            flow_lora_adapter_metadata: `pipeline.flow.peft_config[NAME].to_dict()`, which holds `alpha`.
        """
        cls._save_lora_weights(save_directory, {"flow": flow_lora_layers}, {"flow": flow_lora_adapter_metadata})

    def fuse_lora(
        self,
        components: Sequence[str] = ("flow",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> None:
        """Add the active adapters, or those of these names, to the weights. Then they take no more time.

        To save the result as a model, call `unload_lora_weights` and `save_pretrained`.

        Raises UsageError if there is no adapter, or the weights are quantized.
        """
        if not hasattr(self.flow, "peft_config"):
            raise UsageError("there is no adapter to fuse: call load_lora_weights first")
        if is_quantized(self.flow):
            raise UsageError("cannot fuse an adapter with quantized weights: use it without fuse_lora")
        widen(self.flow)
        super().fuse_lora(list(components), lora_scale, safe_fusing, adapter_names)

    def unfuse_lora(self, components: Sequence[str] = ("flow",)) -> None:
        """Undo `fuse_lora`, up to rounding."""
        super().unfuse_lora(list(components))

    def save_pretrained(self, save_directory: str | Path, *arguments: Any, **options: Any) -> None:
        """`DiffusionPipeline.save_pretrained`. Raises UsageError if adapters are loaded, which a model cannot hold."""
        if hasattr(self.flow, "peft_config"):
            raise UsageError(
                "adapters are loaded: call unload_lora_weights() first, and fuse_lora() before it to save the adapted "
                "model"
            )
        super().save_pretrained(save_directory, *arguments, **options)


def require_peft() -> None:
    """Raise StarflowError if PEFT is not installed."""
    if not USE_PEFT_BACKEND:
        raise StarflowError("LoRA needs peft: in the repository, pip install -c constraints.txt -e '.[train]'")


def is_quantized(flow: StarFlow) -> bool:
    """Whether the matrices are stored in fewer bits."""
    return getattr(flow, "hf_quantizer", None) is not None


def read_lora(
    source: str | Path, weight_name: str = LORA_WEIGHT_NAME_SAFE, **hub: Any
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of an adapter and the arguments of its `peft.LoraConfig`, which older files lack.

    Raises StarflowError if there is no such file, or it is damaged or not in the format of safetensors.
    """
    path = _lora_file(source, weight_name, **hub)
    try:
        with safe_open(path, "pt") as file:
            about = (file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
            return {key: file.get_tensor(key) for key in file.keys()}, about and json.loads(about)  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise StarflowError(f"{path} is damaged, or is not a safetensors file: {error}") from error


def _lora_file(source: str | Path, weight_name: str, **hub: Any) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / weight_name
    elif not path.exists() and str(source).count("/") == 1 and not str(source).startswith((".", "/", "~")):
        try:
            return hub_file(str(source), weight_name, **hub)
        except StarflowError as error:
            raise StarflowError(f"there is no file or folder {source}, and as a hub id: {error}") from error
    if not path.is_file():
        raise StarflowError(f"no LoRA at {source}: give a file, a folder with {weight_name}, or a hub id (owner/name)")
    return path


def check_lora(tensors: Mapping[str, Tensor], flow: StarFlow, name: str) -> None:
    """Raise StarflowError, with the problems in one line, unless every tensor fits a layer of the flow."""
    problems = lora_problems(tensors, flow)
    if not problems:
        return
    shown, others = problems[:MOST_PROBLEMS], len(problems) - MOST_PROBLEMS
    more = f"; and {others} more such problems" if others > 0 else ""
    raise StarflowError(f"the LoRA {name} is not for this model: {'; '.join(shown)}{more}")


def lora_problems(tensors: Mapping[str, Tensor], flow: StarFlow) -> list[str]:
    """What keeps an adapter from being used with a flow: a line for each layer or unknown key; empty if it fits."""
    if not tensors:
        return ["it is empty"]
    layers = adaptable_layers(flow)
    keys = {layer: [f"flow.{layer}.lora_{half}.weight" for half in "AB"] for layer in layers}
    problems = []
    for layer, pair in keys.items():
        missing = [key for key in pair if key not in tensors]
        if len(missing) == 1:
            problems.append(f"it lacks {missing[0]}")
        if not missing:
            problems += _layer_problems(layer, tensors[pair[0]], tensors[pair[1]], layers[layer])
    known = {key for pair in keys.values() for key in pair}
    return problems + [f"unknown key {key}" for key in tensors if key not in known]


def _layer_problems(layer: str, a: Tensor, b: Tensor, size: tuple[int, int]) -> list[str]:
    if not (a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] > 0):
        return [f"{layer} has matrices of the shapes {tuple(a.shape)} and {tuple(b.shape)}, which do not multiply"]
    if (given := (a.shape[1], b.shape[0])) != size:
        return [f"{layer} maps {given[0]} features to {given[1]} in the LoRA, but {size[0]} to {size[1]} in the model"]
    if not (a.isfinite().all() and b.isfinite().all()):
        return [f"{layer} has values that are not finite"]
    return []


def adaptable_layers(flow: StarFlow) -> dict[str, tuple[int, int]]:
    """The linear layers that an adapter may change, by name, and their numbers of inputs and outputs."""
    named = {
        f"{name}.{matrix}": module.get_submodule(matrix)
        for name, module in flow.named_modules()
        if isinstance(module, Layer)
        for matrix in MATRICES
    }
    return {name: (matrix.in_features, matrix.out_features) for name, matrix in named.items()}  # type: ignore[misc]
