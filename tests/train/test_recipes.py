from pathlib import Path

import pytest

import shared_work
from processes import run_processes
from starflow.config import load_config
from starflow.data.sources import build_source
from starflow.encoders.video import VideoCodec
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.source import Toyworld
from starflow.toyworld.teaching.text import TextTrainConfig
from starflow.train.config import FlowTrainConfig, LoraTrainConfig, VAETrainConfig
from starflow.train.pixel_weights import load_pixel_weights
from starflow.train.vae import build_vae
from starflow.train.vae_data import VAEData
from tiny_pipeline import tiny_vae

RECIPES = Path(__file__).parents[2] / "recipes"
TOYWORLD = [
    *("toyworld/vae.yaml", "toyworld/vae-decoder.yaml", "toyworld/vae-outline.yaml"),
    "toyworld-64/vae.yaml",
]


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


def test_the_latents_of_toyworld_64_have_64_tokens_a_frame():
    codec = VideoCodec(build_vae(load_config(VAETrainConfig, RECIPES / "toyworld-64/vae.yaml").model))
    config = load_config(FlowTrainConfig, RECIPES / "toyworld-64/flow.yaml")
    size = (config.pipeline.num_frames, config.pipeline.height, config.pipeline.width)
    assert codec.latent_shape(1, *size) == (1, 5, 8, 8, 8)
    assert config.loop.decay_steps < config.loop.num_steps


def test_the_recipe_for_a_folder_of_clips_is_short():
    config = load_config(FlowTrainConfig, RECIPES / "clips" / "flow.yaml")
    assert (config.init, config.data) == ("toyworld", {"source": "folder", "path": "clips"})
    assert len((RECIPES / "clips" / "flow.yaml").read_text().splitlines()) < 30


def test_the_recipe_for_a_lora_is_short():
    config = load_config(LoraTrainConfig, RECIPES / "clips" / "lora.yaml")
    assert (config.init, config.data) == ("toyworld", {"source": "folder", "path": "clips"})
    assert len((RECIPES / "clips" / "lora.yaml").read_text().splitlines()) < 30


SEVEN_B = sorted((RECIPES / "starflow-v-7b").glob("*.yaml"))


def test_the_stages_of_the_7b_model_grow_in_size_and_length():
    stages = [load_config(FlowTrainConfig, path) for path in SEVEN_B]
    assert [stage.pipeline.num_frames for stage in stages] == [1, 1, 33, 81]
    assert len(stages) == 4
    last = stages[-1].pipeline
    assert (last.width, last.height, last.fps) == (848, 480, 16)
    for stage in stages:
        assert (stage.flow, stage.denoiser) == (stages[0].flow, stages[0].denoiser)
        assert stage.loop.accumulation == 96


@pytest.mark.slow
def test_each_stage_of_the_7b_model_runs_in_small_in_two_processes(tmp_path: Path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    sizes = ["flow.shallow_layers=[1,1]", "flow.deep_layers=2", "flow.shallow_width=40", "flow.deep_width=40"]
    sizes += ["flow.head_dim=20", "flow.position_length=2", "denoiser.width=40", "denoiser.num_layers=1"]
    sizes += ["text.vocab_size=300", "text.width=16", "text.num_layers=1", "text_encoder=null"]
    sizes += ["pipeline.height=32", "pipeline.width=32", "pipeline.max_text_tokens=48", "batch_size=2"]
    short = ["loop.num_steps=3", "loop.warmup_steps=1", "loop.decay_steps=1", "loop.accumulation=2", "loop.device=cpu"]
    machine = ["parallel.group_size=2", "parallel.compile=false"]
    before: list[str] = []
    for path, num_frames in zip(SEVEN_B, (1, 1, 5, 9), strict=True):
        output = tmp_path / path.stem
        data = [f"pipeline.num_frames={num_frames}", f"vae={tmp_path / 'vae'}"]
        config = tmp_path / path.name
        toyworld = "data: {source: toyworld, num_clips: 4, long: 0.5}"
        config.write_text(path.read_text().replace("data: {source: folder, path: data}", toyworld))
        arguments = ["flow", str(config), "-o", str(output), *sizes, *short, *machine, *data, *before]
        codes = run_processes(2, shared_work.train, *arguments, log=tmp_path)
        assert codes == [0, 0], (tmp_path / "0.err").read_text()
        before = [f"init={output / 'final'}"]
    pipeline = StarFlowPipeline.from_pretrained(output / "final")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red circle", output_type="np").frames.shape == (1, 9, 32, 32, 3)
