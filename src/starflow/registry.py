"""Classes by name: a table of names, or the path `module:Class` that a config may also give itself."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from starflow.errors import UsageError


def load_named(kind: str, name: str, known: Mapping[str, str]) -> Any:
    """The class that `known` has under `name`, as `module:Class`, or that `name` itself says in that form.

    `kind` is what the class is, for the messages. Raises UsageError if there is no such name, module or class.
    """
    module, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}, or give module:Class"
        raise UsageError(f"there is no {kind} {name!r}: {hint}")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot load the {kind} {name}: {error}") from error
