from dataclasses import replace
from pathlib import Path

import pytest
import torch

from starflow.cli.main import run
from starflow.config import load_config, save_config
from starflow.data.tasks import TaskWeights
from starflow.errors import UsageError
from starflow.hardware.flops import GPUS, TrainingFlops
from starflow.train.config import (
    DenoiserModelConfig,
    FlowModelConfig,
    FlowTrainConfig,
    LoopConfig,
    ParallelConfig,
    PipelineConfig,
    TextModelConfig,
)
from starflow.train.plan import make_plan
from starflow.train.state import on_meta
from tiny_pipeline import tiny_pipeline, tiny_vae


def config(folder: Path, **changes: object) -> FlowTrainConfig:
    tiny_vae().save_pretrained(folder / "vae")
    values = {
        "output": str(folder / "run"),
        "data": {"source": "folder", "path": "clips"},
        "vae": str(folder / "vae"),
        "train_text_encoder": False,
        "pipeline": PipelineConfig(num_frames=9, fps=8, height=64, width=64, max_text_tokens=8),
        "tasks": TaskWeights(image=0.25, text_to_video=0.75, extend=0, video_to_video=0, last=0),
        "batch_size": 4,
        "flow": FlowModelConfig([1, 1], 2, 40, 40, head_dim=20),
        "denoiser": DenoiserModelConfig(40, 1),
        "text": TextModelConfig(300, 16, 1),
        "loop": LoopConfig(num_steps=100, decay_steps=0, accumulation=8),
    }
    return FlowTrainConfig(**(values | changes))  # type: ignore[arg-type]


def test_a_step_has_the_clips_and_the_tokens_of_all_gpus(tmp_path: Path):
    plan = make_plan(config(tmp_path), 4, "h100", 0.5)
    # 3 latent frames of 4×4 tokens; a batch of images has half as many as the clips have frames
    assert plan.clips == 8 * (0.75 * 4 + 0.25 * 6)
    assert plan.tokens == 8 * 16 * (0.75 * 4 * 3 + 0.25 * 6)
    assert plan.seconds_per_step == pytest.approx(plan.flops / (4 * 0.5 * GPUS["h100"].flops))
    assert plan.days() == pytest.approx(100 * plan.seconds_per_step / 86400)
    assert plan.days(plan.clips * 100) == pytest.approx(plan.days())
    assert plan.trained == ("flow", "denoiser")


def test_sharding_divides_the_state_and_recomputation_shrinks_the_activations(tmp_path: Path):
    made = config(tmp_path)
    memory = {
        (strategy, kind): make_plan(replace(made, parallel=ParallelConfig(strategy, 2, kind)), 4, "h100", 0.5).memory
        for strategy, kind in (("ddp", "none"), ("hsdp", "selective"), ("fsdp", "full"))
    }
    state = [each["weights, gradients, optimizer and averages"] for each in memory.values()]
    assert state == [pytest.approx(state[0] / shards, abs=1) for shards in (1, 2, 4)]
    activations = [each["activations"] for each in memory.values()]
    assert activations[0] > activations[1] > activations[2] > 0
    assert all("gradients added up before they are shared" in each for each in memory.values())
    alone = make_plan(made, 8, "h100", 0.5).memory
    assert "gradients added up before they are shared" not in alone


def test_a_plan_starts_from_a_model(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    made = make_plan(replace(config(tmp_path), init=str(tmp_path / "model"), vae=None), 1, "a100", 0.4)
    assert made.parameters["flow"] == sum(each.numel() for each in tiny_pipeline().flow.parameters())


def test_micro_steps_that_the_gpus_cannot_divide_are_an_error(tmp_path: Path):
    with pytest.raises(UsageError, match=r"loop\.accumulation is 8: set it to a multiple of 3"):
        make_plan(config(tmp_path), 3, "h100", 0.5)


def test_the_command_prints_parameters_memory_and_days(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_config(config(tmp_path), tmp_path / "config.yaml")
    assert run(["train", "plan", str(tmp_path / "config.yaml"), "--gpus", "8", "--clips", "1e6"]) == 0
    told = capsys.readouterr().out
    for words in ("million parameters", "together", "of 80: fits", "at 40% of the peak", "days for 1,000,000 clips"):
        assert words in told


def test_operations_are_six_for_each_weight_and_token_and_those_of_attention():
    pipeline = tiny_pipeline()
    for model in (pipeline.flow, pipeline.denoiser):
        model.requires_grad_()
    flow, denoiser = on_meta(pipeline.flow), on_meta(pipeline.denoiser)
    x, text = torch.zeros(2, 3, pipeline.flow.config["latent_channels"], 8, 8), torch.zeros(2, 8, 16)
    got = TrainingFlops(flow, denoiser)(x, text)  # type: ignore[arg-type]
    wanted = 0.0
    for transformer, tokens, length in (
        *((block.transformer, 2 * 3 * 64, 64) for block in pipeline.flow.shallow),
        (pipeline.flow.deep.transformer, 2 * (3 * 64 + 8), 3 * 64 + 8),
        (pipeline.denoiser.transformer, 2 * (3 * 64 + 8), 3 * 64 + 8),
    ):
        for layer in transformer.layers:
            width = layer.mlp.norm.weight.numel()
            wanted += 6 * tokens * 12 * width**2 + 12 * tokens * length * width
    # The projections and heads come on top. Not every frame of the denoiser attends to every other.
    assert 0.98 * wanted < got < 1.25 * wanted


RECIPES = Path(__file__).parents[2] / "recipes" / "starflow-v-7b"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_stage_of_the_recipe_has_the_parameters_of_the_release_and_fits_on_96_gpus(path: Path):
    plan = make_plan(load_config(FlowTrainConfig, path), 96, "h100", 0.4)
    assert plan.parameters["flow"] + plan.parameters["denoiser"] == 6_890_096_528
    assert plan.total_memory < GPUS["h100"].memory
