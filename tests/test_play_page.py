"""The Python code of docs/play.md runs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starflow.flow.actions import ActionSpace
from tiny_pipeline import playable_pipeline

PAGE = Path(__file__).parents[1] / "docs" / "play.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def block_with(text: str) -> str:
    (block,) = (block for block in BLOCKS if text in block)
    return block


def test_every_block_has_a_test():
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("text", ["session.say", "gymnasium.make"])
def test_code_with_the_bundled_model_runs(text: str):
    exec(block_with(text), {})


def test_code_with_actions_runs():
    names: dict[str, Any] = {"pipeline": playable_pipeline(ActionSpace(sizes=(3, 3, 2)))}
    exec(block_with("pipeline(") + "\n", names | {"picture": np.zeros((32, 32, 3), np.uint8)})


def test_code_of_the_game_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("vizdoom", reason="the extra worlds is not installed")
    from starflow.cli.main import run

    monkeypatch.chdir(tmp_path)
    assert run(["record", "basic", "-o", "episodes/train", "--episodes", "1"]) == 0
    names: dict[str, Any] = {}
    exec(block_with("replay("), names)
    assert np.array_equal(names["truth"][:8], names["episode"].frames[:8])
