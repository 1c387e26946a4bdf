"""Sources of clips by name: what `data: {source: folder, path: clips/}` in a config means."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from starflow.data.clip import ClipSource
from starflow.data.table import EXTENSIONS as TABLE_EXTENSIONS
from starflow.errors import UsageError, nearest_name
from starflow.registry import load_named

# The dataclass of each source, by the source's name. A config may also give `module:Class`.
SOURCES = {
    "folder": "starflow.data.folder:ClipFolder",
    "table": "starflow.data.table:ClipTable",
    "webdataset": "starflow.data.webdataset:WebDataset",
    "mixture": "starflow.data.mixture:SourceMixture",
    "toyworld": "starflow.toyworld.source:Toyworld",
    "episodes": "starflow.worlds.source:Episodes",
}


def source_config(name: str) -> dict[str, str]:
    """The config of a source from a path or an address alone.

    It is `folder` for a folder, `table` for a table or a folder with one named `metadata`, `webdataset` for shards: a
    name that ends in .tar, or a folder that holds such files; and `episodes` for a folder of .safetensors files.
    """
    path = Path(name)
    if name.endswith(".tar"):
        return {"source": "webdataset", "path": name}
    metadata = (file.suffix.lower() for file in path.rglob("metadata.*"))
    if path.suffix.lower() in TABLE_EXTENSIONS or any(extension in TABLE_EXTENSIONS for extension in metadata):
        return {"source": "table", "path": name}
    if any(path.glob("*.tar")):
        return {"source": "webdataset", "path": str(path / "*.tar")}
    if any(path.glob("*.safetensors")):
        return {"source": "episodes", "path": name}
    return {"source": "folder", "path": name}


def build_source(config: Mapping[str, Any]) -> ClipSource:
    """The source of a config, which has the name of the source under `source`, and the arguments of the source.

    Raises:
        UsageError: the source is unknown, an argument is unknown (the message suggests the nearest one) or missing, or
            its value is invalid.
    """
    arguments = dict(config)
    name = arguments.pop("source", None)
    if name is None:
        raise UsageError(f"data.source is missing: set it to {' or '.join(SOURCES)}")
    cls = load_named("source", str(name), SOURCES)
    known = {field.name: field for field in fields(cls)}
    for argument in arguments:
        if argument not in known:
            close = nearest_name(argument, known)
            hint = f": did you mean {close!r}?" if close else f"; it has {', '.join(known)}"
            raise UsageError(f"the source {name} has no argument {argument!r}{hint}")
    missing = [
        field.name
        for field in known.values()
        if field.default is MISSING and field.default_factory is MISSING and field.name not in arguments
    ]
    if missing:
        raise UsageError(f"the source {name} needs data.{', data.'.join(missing)}")
    return cls(**arguments)
