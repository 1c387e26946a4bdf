"""The bundled models, and where a model that a user names is."""

import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from starflow.errors import StarflowError, UsageError
from starflow.weights.hub import hub_file

ZOO = Path(__file__).parents[1] / "zoo"


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))


def resolve_model(name: str) -> str:
    """The folder of a bundled model, of a path or of a released model; a hub id (`owner/name`) as it is.

    A released model is named by its preset (`starflow-v-7b`) or by its file on the hub (`apple/starflow/FILE.pth`); it
    is downloaded and converted when it is first asked for, into `~/.cache/starflow` or `STARFLOW_CACHE`.

    Raises:
        StarflowError: there is no such model, or it cannot be downloaded.
    """
    if name in bundled_models():
        return str(ZOO / name)
    if Path(name).is_dir():
        if not (Path(name) / "model_index.json").is_file():
            raise StarflowError(f"{name} holds no model: there is no model_index.json in it")
        return name
    if (released := _released(name)) is not None:
        return str(_converted(released))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        hub_file(name, "model_index.json")
        return name
    known = ", ".join(bundled_models()) or "none"
    raise StarflowError(f"no model at {name}: give a folder, a hub id (owner/name), or a bundled model ({known})")


def read_index(model: str) -> dict[str, Any]:
    """The `model_index.json` of a model that `resolve_model` found: its parts and settings.

    Raises StarflowError if it cannot be had or read.
    """
    path = Path(model) / "model_index.json" if Path(model).is_dir() else hub_file(model, "model_index.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StarflowError(f"cannot load the model {model}: its model_index.json is damaged") from error


def released_preset(name: str) -> str | None:
    """The preset of a released model named by its preset or its file on the hub; None for any other model."""
    released = None if Path(name).is_dir() else _released(name)
    return None if released is None else released.preset


class _Released(NamedTuple):
    """A released model's file on the hub, and the preset that it is converted with."""

    preset: str
    repository: str
    filename: str


def _released(name: str) -> _Released | None:
    """What a name stands for, a preset or a file on the hub; None for no released model."""
    from starflow.convert.presets import PRESETS, preset_of_file

    if name in PRESETS:
        return _Released(name, PRESETS[name].repository, PRESETS[name].filename)
    if choices := [preset for preset, about in PRESETS.items() if about.repository == name]:
        raise UsageError(f"{name} holds several models: choose {' or '.join(choices)}")
    repository, _, filename = name.rpartition("/")
    preset = preset_of_file(filename) if repository.count("/") == 1 and filename.endswith(".pth") else None
    return None if preset is None else _Released(preset, repository, filename)


def _converted(released: _Released) -> Path:
    """The folder of a released model, downloaded and converted if it is not there yet."""
    cache = Path(os.environ.get("STARFLOW_CACHE", "~/.cache/starflow")).expanduser()
    folder = cache / Path(released.filename).stem
    if not (folder / "model_index.json").is_file():
        from starflow.convert.convert import convert
        from starflow.convert.presets import released_model

        checkpoint = hub_file(released.repository, released.filename)
        logging.getLogger(__name__).warning("converting %s, once, to %s", released.filename, folder)
        convert(checkpoint, released_model(released.preset), folder)
    return folder
