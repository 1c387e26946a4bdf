from pathlib import Path

import pytest

from starflow.config import load_config
from starflow.data.sources import build_source
from starflow.encoders.video import VideoCodec
from starflow.toyworld.source import Toyworld
from starflow.toyworld.teaching.text import TextTrainConfig
from starflow.train.config import FlowTrainConfig, LoraTrainConfig, VAETrainConfig
from starflow.train.pixel_weights import load_pixel_weights
from starflow.train.vae import build_vae
from starflow.train.vae_data import VAEData

RECIPES = Path(__file__).parents[2] / "recipes"
TOYWORLD = ["toyworld/vae.yaml", "toyworld/vae-decoder.yaml", "toyworld/vae-outline.yaml"]


@pytest.mark.parametrize("name", [*TOYWORLD, "clips/vae.yaml"])
def test_vae_recipes_load_and_their_phases_add_up(name: str):
    config = load_config(VAETrainConfig, RECIPES / name)
    assert sum(phase.num_steps for phase in config.phases) == config.loop.num_steps
    assert config.loop.decay_steps < config.loop.num_steps


@pytest.mark.parametrize("name", TOYWORLD)
def test_toyworld_recipes_see_each_of_their_clips_once(name: str):
    config = load_config(VAETrainConfig, RECIPES / name)
    data = VAEData(config, VideoCodec(build_vae(config.model)))
    num_seen = sum(phase.num_steps * phase.batch_size for phase in config.phases) * config.loop.accumulation
    assert num_seen == len(data.train.indices)
    assert data.num_frames == 17
    assert next(data.held_out()).shape == (1, 17, 3, 64, 64)
    assert load_pixel_weights(config.loss.pixel_weights) is not None


def test_the_text_recipe_loads():
    assert load_config(TextTrainConfig, RECIPES / "toyworld/text.yaml").text.num_layers == 4


@pytest.mark.parametrize("name", ["flow.yaml", "flow-more.yaml", "flow-text.yaml", "flow-short.yaml"])
def test_toyworld_flow_recipes_load_and_have_clips_for_each_task(name: str):
    config = load_config(FlowTrainConfig, RECIPES / "toyworld" / name)
    source = build_source(config.data)
    assert isinstance(source, Toyworld)
    assert source.edited > 0 and source.long > 0
    assert config.init or (config.vae and config.pipeline.num_frames == 17)
    assert config.loop.decay_steps < config.loop.num_steps


def test_the_recipe_for_a_folder_of_clips_is_short():
    config = load_config(FlowTrainConfig, RECIPES / "clips" / "flow.yaml")
    assert (config.init, config.data) == ("toyworld", {"source": "folder", "path": "clips"})
    assert len((RECIPES / "clips" / "flow.yaml").read_text().splitlines()) < 30


def test_the_recipe_for_a_lora_is_short():
    config = load_config(LoraTrainConfig, RECIPES / "clips" / "lora.yaml")
    assert (config.init, config.data) == ("toyworld", {"source": "folder", "path": "clips"})
    assert len((RECIPES / "clips" / "lora.yaml").read_text().splitlines()) < 30
