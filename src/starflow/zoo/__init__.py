"""The bundled models, and where a model that a user names is."""

from pathlib import Path

from starflow.errors import StarflowError

ZOO = Path(__file__).parent


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))


def resolve_model(name: str) -> str:
    """The folder of a bundled model or of a path; a hub id (`owner/name`) as it is.

    Raises:
        StarflowError: there is no such folder, or it holds no model.
    """
    if name in bundled_models():
        return str(ZOO / name)
    if Path(name).is_dir():
        if not (Path(name) / "model_index.json").is_file():
            raise StarflowError(f"{name} holds no model: there is no model_index.json in it")
        return name
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    known = ", ".join(bundled_models()) or "none"
    raise StarflowError(f"no model at {name}: give a folder, a hub id (owner/name), or a bundled model ({known})")
