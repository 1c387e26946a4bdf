"""Servers with a tiny model: most tests share one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server_helpers import Client, serving, settings_for
from tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server that tests share: they must not depend on its other videos."""
    with serving(settings_for(tiny_model, tmp_path_factory.mktemp("data"))) as client:
        yield client
