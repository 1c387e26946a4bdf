"""Configs: a dataclass defines keys, types and defaults; a YAML file and `key=value` overrides set values."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from starflow.errors import UsageError, nearest_name

Config = TypeVar("Config")


def load_config(cls: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into the dataclass `cls`; overrides such as `optimizer.lr=1e-3` take precedence.

    Raises:
        UsageError: the file is missing or is not YAML, a key is unknown (the message suggests the nearest one), a
            value has the wrong type, or a required value is missing.
    """
    schema = OmegaConf.structured(cls)
    file_values = _read(path)
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


def config_class(path: str | Path, classes: Sequence[type[Config]]) -> type[Config]:
    """Which of several dataclasses a YAML file is for: the first of those that know most of its keys.

    Raises UsageError if the file is missing or is not YAML.
    """
    given = {str(key) for key in _read(path)}
    return min(classes, key=lambda cls: len(given - set(OmegaConf.structured(cls))))


def save_config(config: object, path: str | Path) -> None:
    """Write a configuration dataclass as YAML that `load_config` can read."""
    OmegaConf.save(OmegaConf.structured(config), path)


def _read(path: str | Path) -> DictConfig:
    try:
        values = OmegaConf.load(path)
    except FileNotFoundError:
        raise UsageError(f"no config file at {path}") from None
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} as YAML: {error}") from None
    if not isinstance(values, DictConfig):
        raise UsageError(f"{path} must hold `key: value` lines, not a list")
    return values


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
    close = nearest_name(key, known)
    if close is None and (leaf := nearest_name(key.rpartition(".")[2], by_leaf)):
        close = by_leaf[leaf]
    return f": did you mean {close!r}?" if close else f"; known keys: {', '.join(known)}"


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in map(str, node):
        keys.append(f"{prefix}{name}")
        child = None if OmegaConf.is_missing(node, name) else node[name]
        if isinstance(child, DictConfig):
            keys += _keys(child, f"{prefix}{name}.")
    return keys


__all__ = ["MISSING", "load_config", "save_config"]
