import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from starflow.errors import StarflowError
from starflow.train.checkpoint import Checkpoints, list_checkpoints, load_checkpoint
from starflow.train.config import OptimizerConfig
from starflow.train.loop import optimizer_step
from starflow.train.state import Trained, TrainState, create_state
from tiny_run import NUM_STEPS, TinyStep, assert_same, loop_config, tiny_run


def state(lr: float = 1e-3, muon_lr: float = 0.0, out: int = 4) -> TrainState:
    model, scale = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, out)
    model[1].weight = model[0].weight  # tied, like T5's embeddings
    config = OptimizerConfig(lr=lr, muon_lr=muon_lr)
    return create_state({"model": Trained(model, config), "scale": Trained(scale, config)}, loop_config())


def trained(**arguments: float) -> TrainState:
    made = state(**arguments)
    for _ in range(3):
        optimizer_step(made, TinyStep(*made.modules.values(), {}), loop_config())
    return made


def saved(made: TrainState, folder: Path, keep: int = 1) -> Path:
    checkpoints = Checkpoints(folder, keep)
    checkpoints.save(made)
    checkpoints.wait()
    return list_checkpoints(folder)[-1]


def test_a_checkpoint_restores_the_state(tmp_path: Path):
    made, other = trained(muon_lr=0.02), state(muon_lr=0.02)
    path = saved(made, tmp_path)
    load_checkpoint(other, path)
    assert_same(other, made)
    for each in (made, other):
        optimizer_step(each, TinyStep(*each.modules.values(), {}), loop_config())
    assert_same(other, made)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_a_checkpoint_holds_the_state_at_the_time_of_saving(tmp_path: Path):
    made, other = trained(), state()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(made)
    kept = {name: value.clone() for name, value in made.modules["model"].state_dict().items()}
    optimizer_step(made, TinyStep(*made.modules.values(), {}), loop_config())
    checkpoints.wait()
    load_checkpoint(other, list_checkpoints(tmp_path)[-1])
    torch.testing.assert_close(other.modules["model"].state_dict(), kept, rtol=0, atol=0)
    assert other.step == 3


def test_weights_keep_their_memory_layout(tmp_path: Path):
    def conv() -> TrainState:
        return create_state(
            {"m": Trained(nn.Conv3d(4, 4, 3).to(memory_format=torch.channels_last_3d), OptimizerConfig())},
            loop_config(),
        )

    made, other = conv(), conv()
    load_checkpoint(other, saved(made, tmp_path))
    assert_same(other, made)
    weight = other.modules["m"].weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert other.optimizer.state[weight]["exp_avg"].stride() == weight.stride()


def test_a_run_resumes_with_another_learning_rate(tmp_path: Path):
    made, slower = trained(lr=1e-3), state(lr=1e-4)
    load_checkpoint(slower, saved(made, tmp_path))
    for _ in range(2):
        rates = [each.optimizer.param_groups[0]["lr"] for each in (made, slower)]
        assert rates[0] == pytest.approx(10 * rates[1])
        made.schedule.step()
        optimizer_step(slower, TinyStep(*slower.modules.values(), {}), loop_config())


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path):
    made = state()
    for step in (5, 10, 100, 2000):
        made.step = step
        saved(made, tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00002000"]


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_the_one_before_is_kept(tmp_path: Path):
    made = state()
    path = saved(made, tmp_path)
    checkpoints = Checkpoints(tmp_path, keep=1)
    made.step = 1
    (tmp_path / ".starflow-step-00000001").mkdir()
    (tmp_path / ".starflow-step-00000001" / "state.json").mkdir()  # a file of this name cannot be written
    checkpoints.save(made)
    with pytest.raises(StarflowError, match="cannot write a checkpoint to"):
        checkpoints.wait()
    assert list_checkpoints(tmp_path) == [path]


def test_files_of_a_checkpoint_that_was_not_finished_are_removed(tmp_path: Path):
    (tmp_path / ".starflow-step-00000008").mkdir()
    Checkpoints(tmp_path, keep=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: shard(path).write_bytes(shard(path).read_bytes()[:-5]),
        lambda path: shard(path).unlink(),
        lambda path: (path / "state.json").write_text("{"),
        lambda path: (path / "state.json").write_text("{}"),
        lambda path: (path / "state.json").unlink(),
    ],
)
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(tmp_path: Path, damage, caplog):
    whole = tiny_run(tmp_path / "whole", {})
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    before, newest = list_checkpoints(tmp_path / "torn" / "checkpoints")
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert list_checkpoints(tmp_path / "torn" / "checkpoints") == [before]
    assert f"{newest} is damaged" in caplog.text
    resumed = tiny_run(tmp_path / "torn", {}, resume=True)
    assert resumed.step == NUM_STEPS
    assert_same(resumed, whole)
    assert list_checkpoints(tmp_path / "torn" / "checkpoints") == [before, newest]


def shard(checkpoint: Path) -> Path:
    (file,) = checkpoint.glob("*.safetensors")
    return file


def test_a_checkpoint_of_another_architecture_is_an_error_of_one_line(tmp_path: Path):
    path = saved(trained(), tmp_path)
    with pytest.raises(StarflowError, match=r"cannot resume from .*scale\.") as error:
        load_checkpoint(state(out=5), path)
    assert "\n" not in str(error.value)


def test_a_missing_tensor_is_an_error(tmp_path: Path):
    path = saved(trained(), tmp_path)
    with pytest.raises(StarflowError, match=r"Missing key.*momentum"):
        load_checkpoint(state(muon_lr=0.02), path)


def test_the_file_of_the_state_names_the_other_files(tmp_path: Path):
    path = saved(trained(), tmp_path)
    assert json.loads((path / "state.json").read_text()) == {
        "step": 3,
        "files": {shard(path).name: shard(path).stat().st_size},
    }
