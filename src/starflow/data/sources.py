"""Sources of clips by name: what `data: {source: folder, path: clips/}` in a config means."""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from starflow.data.clip import ClipSource
from starflow.errors import UsageError
from starflow.registry import load_named

# A source's name, and the module and the dataclass that it is. A config may also name `module:Class` itself.
SOURCES = {
    "folder": "starflow.data.folder:ClipFolder",
    "toyworld": "starflow.toyworld.source:Toyworld",
}


def build_source(config: Mapping[str, Any]) -> ClipSource:
    """The source that a config describes: its name under `source`, and beside it the source's own arguments.

    Raises:
        UsageError: there is no such source, an argument is unknown (the nearest known one is named) or missing, or the
            source refuses its value.
    """
    arguments = dict(config)
    name = arguments.pop("source", None)
    if name is None:
        raise UsageError(f"data does not say which source: set data.source to {' or '.join(SOURCES)}")
    cls = load_named("source", str(name), SOURCES)
    known = {field.name: field for field in fields(cls)}
    for argument in arguments:
        if argument not in known:
            close = difflib.get_close_matches(argument, known, n=1)
            hint = f": did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}"
            raise UsageError(f"the source {name} has no argument {argument!r}{hint}")
    missing = [
        field.name
        for field in known.values()
        if field.default is MISSING and field.default_factory is MISSING and field.name not in arguments
    ]
    if missing:
        raise UsageError(f"the source {name} needs data.{', data.'.join(missing)}")
    return cls(**arguments)
