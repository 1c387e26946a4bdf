"""Classes and functions that a config chooses by name, from a table of names or as `module:attribute`."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from starflow.errors import UsageError


def load_named(kind: str, name: str, known: Mapping[str, str]) -> Any:
    """Import the class or function called `name`.

    Args:
        kind: what it is, for messages, such as "source".
        name: a key of `known`, or a `module:attribute` itself.
        known: the `module:attribute` of each name.

    Raises:
        UsageError: the name is unknown (the nearest known one is suggested), or the import fails.
    """
    module, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}, or give module:attribute"
        raise UsageError(f"there is no {kind} {name!r}: {hint}")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot load the {kind} {name}: {error}") from error
