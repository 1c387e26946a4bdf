from pathlib import Path

import pytest

from starflow.worlds.evaluation import recorded
from starflow.worlds.evaluation.recorded import held_out_and_training
from starflow.worlds.source import Episodes


@pytest.fixture(autouse=True)
def few_and_short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorded, "HELD_OUT_SEEDS", range(100_000, 100_001))
    monkeypatch.setattr(recorded, "TRAINING_SEEDS", range(2))
    monkeypatch.setattr(recorded, "MAX_FRAMES", 4)


def test_missing_episodes_are_recorded_with_other_seeds(tmp_path: Path):
    held_out, training = held_out_and_training(None, None, tmp_path)
    names = {file.name for file in held_out.files}
    assert names == {"basic-100000.safetensors", "take_cover-100000.safetensors"}
    assert len(training) == 4 and not names & {file.name for file in training.files}


def test_given_episodes_are_used_and_set_the_scenarios(held_out: Episodes, tmp_path: Path):
    basic = tmp_path / "basic"
    basic.mkdir()
    (basic / held_out.files[0].name).symlink_to(held_out.files[0])
    given = Episodes(str(basic))
    same, training = held_out_and_training(given, None, tmp_path / "new")
    assert same is given
    assert [file.name for file in training.files] == ["basic-000000.safetensors", "basic-000001.safetensors"]
    assert not (tmp_path / "new" / "test").exists()
