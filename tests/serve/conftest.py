"""Servers with a tiny model: most tests share one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters import save_random_adapter
from postgresql_server import new_database, postgresql_server
from server_helpers import Client, serving, settings_for
from starflow.pipeline.pipeline import StarFlowPipeline
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


@pytest.fixture(scope="session")
def loras(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pipeline = StarFlowPipeline.from_pretrained(tiny_model)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("clay", "ink")}
    return {
        name: str(save_random_adapter(pipeline, folder, seed)) for seed, (name, folder) in enumerate(folders.items())
    }


@pytest.fixture(scope="session")
def adapted(tiny_model: Path, loras: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server with adapters."""
    with serving(settings_for(tiny_model, tmp_path_factory.mktemp("data"), loras=loras)) as client:
        yield client


@pytest.fixture(scope="session")
def postgresql() -> Iterator[int]:
    """The port of a PostgreSQL server."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with postgresql_server() as port:
        yield port


@pytest.fixture
def database(postgresql: int) -> str:
    """The URL of a PostgreSQL database of this test."""
    return new_database(postgresql)
