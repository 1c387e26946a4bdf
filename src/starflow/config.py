"""Configurations: a dataclass defines keys, types and defaults; a YAML file and `key=value` overrides set values."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from starflow.errors import UsageError

Config = TypeVar("Config")


def load_config(cls: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into the dataclass `cls`; overrides such as `optimizer.lr=1e-3` take precedence.

    Raises:
        UsageError: the file is missing or is not YAML, a key is unknown (the message names the nearest known one), a
            value has the wrong type, or a required value is missing.
    """
    schema = OmegaConf.structured(cls)
    try:
        file_values = OmegaConf.load(path)
    except FileNotFoundError:
        raise UsageError(f"no config file at {path}") from None
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} as YAML: {error}") from None
    if not isinstance(file_values, DictConfig):
        raise UsageError(f"{path} must hold `key: value` lines, not a list")
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise UsageError(f"cannot read the override {override!r}: write key=value, such as seed=1")
    merged = schema
    for source, values in ((str(path), file_values), ("the command line", _dotlist(overrides))):
        merged = _merge(merged, values, source)
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise UsageError(f"{path} does not set {', '.join(missing)}")
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def save_config(config: object, path: str | Path) -> None:
    """Write a configuration dataclass as YAML that `load_config` can read."""
    OmegaConf.save(OmegaConf.structured(config), path)


def _dotlist(overrides: Sequence[str]) -> DictConfig:
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UsageError(f"cannot read the overrides {' '.join(overrides)}: {error}") from None


def _merge(schema: DictConfig, values: DictConfig, source: str) -> DictConfig:
    try:
        return OmegaConf.merge(schema, values)  # type: ignore[return-value]
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise UsageError(f"unknown key {key!r} in {source}{_suggestion(schema, key)}") from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        place = f" for {error.full_key!r}" if error.full_key else ""
        raise UsageError(f"wrong value{place} in {source}: {reason}") from None


def _suggestion(schema: DictConfig, key: str) -> str:
    known = _keys(schema)
    by_leaf = {name.rpartition(".")[2]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, known, n=1) or [
        by_leaf[leaf] for leaf in difflib.get_close_matches(key.rpartition(".")[2], by_leaf, n=1)
    ]
    return f": did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in map(str, node):
        keys.append(f"{prefix}{name}")
        child = None if OmegaConf.is_missing(node, name) else node[name]
        if isinstance(child, DictConfig):
            keys += _keys(child, f"{prefix}{name}.")
    return keys


__all__ = ["MISSING", "load_config", "save_config"]
