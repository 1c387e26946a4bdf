"""Finding the model that a user names."""

import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from starflow.errors import StarflowError, UsageError
from starflow.weights.components import part_config
from starflow.weights.hub import hub_file, say_download

ZOO = Path(__file__).parents[1] / "zoo"


def bundled_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))


def resolve_model(name: str, **hub: Any) -> str:
    """The folder of a model, or its hub id.

    Args:
        name: a bundled model, a folder, a hub id (`owner/name`), or a released model: its preset (`starflow-v-7b`) or
            its file on the hub (`apple/starflow/FILE.pth`). A released model is downloaded and converted once, into
            `~/.cache/starflow` or `STARFLOW_CACHE`.
        hub: how to look on the hub, see `hub_file`.

    Raises:
        UsageError: the name stands for several released models.
        StarflowError: there is no such model, or it cannot be downloaded.
    """
    if name in bundled_models():
        return str(ZOO / name)
    if Path(name).is_dir():
        if not (Path(name) / "model_index.json").is_file():
            raise StarflowError(f"{name} does not hold a model: it has no model_index.json")
        return name
    if (released := _released(name)) is not None:
        return str(_converted(released))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        hub_file(name, "model_index.json", **hub)
        return name
    known = ", ".join(bundled_models()) or "none"
    raise StarflowError(f"no model at {name}: give a folder, a hub id (owner/name), or a bundled model ({known})")


def read_index(model: str, **hub: Any) -> dict[str, Any]:
    """The content of a model's `model_index.json`: its parts and settings.

    Args:
        model: a folder or a hub id, as `resolve_model` returns it.
        hub: how to look on the hub, see `hub_file`.

    Raises:
        StarflowError: the file cannot be downloaded or read.
    """
    path = Path(model) / "model_index.json" if Path(model).is_dir() else hub_file(model, "model_index.json", **hub)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StarflowError(f"cannot load the model {model}: its model_index.json is damaged") from error


def is_quantized(model: str) -> bool:
    """Whether weights of a model are stored quantized. Downloads only JSON files.

    Raises:
        UsageError, StarflowError: as `resolve_model` and `read_index`.
    """
    if released_preset(model) is not None:
        return False
    folder = resolve_model(model)
    index = read_index(folder)
    parts = ("flow", "denoiser", "text_encoder", "vae")
    return any("quantization_config" in part_config(folder, part, index) for part in parts)


def released_preset(name: str) -> str | None:
    """The preset of a released model, given its preset or its file on the hub; None for any other model."""
    released = None if Path(name).is_dir() else _released(name)
    return None if released is None else released.preset


class _Released(NamedTuple):
    """A released model: its file on the hub, and the preset to convert it with."""

    preset: str
    repository: str
    filename: str


def _released(name: str) -> _Released | None:
    """The released model that a preset or a file on the hub names, or None."""
    from starflow.convert.presets import PRESETS, preset_of_file

    if name in PRESETS:
        return _Released(name, PRESETS[name].repository, PRESETS[name].filename)
    if choices := [preset for preset, about in PRESETS.items() if about.repository == name]:
        raise UsageError(f"{name} has several models: choose {' or '.join(choices)}")
    repository, _, filename = name.rpartition("/")
    preset = preset_of_file(filename) if repository.count("/") == 1 and filename.endswith(".pth") else None
    return None if preset is None else _Released(preset, repository, filename)


def _converted(released: _Released) -> Path:
    """The folder of a released model, which is downloaded and converted if it does not exist."""
    cache = Path(os.environ.get("STARFLOW_CACHE", "~/.cache/starflow")).expanduser()
    folder = cache / Path(released.filename).stem
    if not (folder / "model_index.json").is_file():
        from starflow.convert.convert import convert
        from starflow.convert.presets import LICENSE, released_model

        logger = logging.getLogger(__name__)
        say_download(released.repository, released.filename, copies=1)
        logger.warning("%s: %s", released.repository, LICENSE)
        checkpoint = hub_file(released.repository, released.filename)
        logger.warning("converting %s to %s (only once)", released.filename, folder)
        convert(checkpoint, released_model(released.preset), folder)
    return folder
