"""A tiny model on disk, for the scripts that take one."""

from pathlib import Path

import pytest

from tiny_pipeline import tiny_pipeline


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"
