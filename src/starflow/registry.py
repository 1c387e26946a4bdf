"""Parts that a config chooses by name: a registry maps the name to `module:attribute`, which is imported on use."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from starflow.errors import UsageError


def load_registered(kind: str, registry: Mapping[str, str], name: str) -> Any:
    """The object that is registered under `name`; `name` may also be a `module:attribute` itself.

    Args:
        kind: what the registry holds, for messages: "source".

    Raises:
        UsageError: nothing has this name (the nearest known one is suggested), or its module cannot be imported.
    """
    module, _, attribute = registry.get(name, name).partition(":")
    if not attribute:
        close = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(registry)}, or give module:attribute"
        raise UsageError(f"there is no {kind} {name!r}: {hint}")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot load the {kind} {name}: {error}") from error
