"""`recipes/freedoom` from its first command to a session, with tiny numbers. Nobody has run it in full yet."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from starflow.cli.main import run
from starflow.config import load_config
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import FlowTrainConfig, VAETrainConfig
from starflow.worlds.evaluation import networks

RECIPE = Path(__file__).parents[2] / "recipes" / "freedoom"
LOOP = ["loop.num_steps=2", "loop.decay_steps=1", "loop.warmup_steps=1", "loop.bf16=false"]
PHASES = "phases=[{num_steps: 1, num_frames: 2, batch_size: 2}, {num_steps: 1, num_frames: 4, batch_size: 2}]"
TINY = {
    "record": ["--episodes", "1", "--max-frames", "24"],
    "vae": [*LOOP, "num_test_clips=1", "model.base_dim=4", "excerpt_frames=4", PHASES],
    "evaluate": ["--num-clips", "1", "--game-clips", "2", "--minutes", "0"],
    "flow": [*LOOP, "batch_size=2", "pipeline.num_frames=4", "flow.deep_layers=1"],
}


def commands() -> list[list[str]]:
    lines = (RECIPE / "run.sh").read_text().splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("starflow ")]


def test_the_configs_load_and_agree_on_their_folders():
    vae, flow = load_config(VAETrainConfig, RECIPE / "vae.yaml"), load_config(FlowTrainConfig, RECIPE / "flow.yaml")
    assert flow.vae == f"{vae.output}/final"
    assert sum(phase.num_steps for phase in vae.phases) == vae.loop.num_steps
    recorded = {command[command.index("-o") + 1] for command in commands() if command[0] == "record"}
    assert recorded == {vae.data["path"], vae.test_data["path"]}
    assert flow.data == vae.data


@pytest.mark.slow
def test_the_recipe_makes_a_model_that_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("vizdoom", reason="the extra worlds is not installed")
    (tmp_path / "recipes").symlink_to(RECIPE.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(networks, "NUM_STEPS", 3)
    kinds = []
    for command in commands():
        kinds.append(command[1] if command[0] == "train" else command[0])
        assert run([*command, *TINY[kinds[-1]]]) == 0
    assert kinds == [*["record"] * 4, "vae", "flow", "evaluate"]

    pipeline = StarFlowPipeline.from_pretrained("runs/freedoom-flow/final")
    assert pipeline.codec.temporal_factor == 1 and pipeline.denoiser.lookahead == 0
    session = pipeline.session(image=np.zeros((64, 64, 3), np.uint8))
    assert session.step([0, 2, 1]).shape == (1, 64, 64, 3)
