"""Every recipe can be read, and names a source that there is."""

from pathlib import Path

import pytest

from starflow.config import load_config
from starflow.data.sources import build_source
from starflow.toyworld.source import Toyworld
from starflow.train.config import FlowTrainConfig

RECIPES = Path(__file__).parents[1] / "recipes"
FLOWS = sorted(RECIPES.glob("*/flow*.yaml"))


def test_there_are_some():
    assert len(FLOWS) >= 5


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recipe_for_a_flow(path: Path):
    config = load_config(FlowTrainConfig, path)
    assert config.init or config.vae
    if config.data["source"] == "toyworld":
        assert isinstance(build_source(config.data), Toyworld)


def test_fine_tuning_on_ones_own_clips_takes_few_lines():
    assert len((RECIPES / "clips" / "flow.yaml").read_text().splitlines()) < 30
