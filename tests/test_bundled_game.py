"""The bundled game: it is complete and small, and follows what the player does."""

import json

import numpy as np
import pytest
import torch

from starflow.cli.main import run
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.starts import load_start
from starflow.play.controls import controls_of
from starflow.weights.models import ZOO, bundled_models

FOLDER = ZOO / "freedoom"
LEFT, RIGHT = [1, 0, 0], [2, 0, 0]


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    return StarFlowPipeline.from_pretrained("freedoom")


def play(pipeline: StarFlowPipeline, actions: list[list[int]], seed: int = 0) -> Frames:
    start = load_start(FOLDER / "starts" / "basic-200000.safetensors")
    session = start.session(pipeline, generator=torch.Generator().manual_seed(seed))
    return np.concatenate([session.step(action) for action in actions])


def shift(before: np.ndarray, after: np.ndarray) -> int:
    """By how many columns the far wall and the monster before it moved to the right, from -8 to 8."""
    rows = slice(24, 36)
    errors = {
        by: np.abs(after[rows, 8 + by : 56 + by].astype(int) - before[rows, 8:56].astype(int)).mean()
        for by in range(-8, 9)
    }
    return min(errors, key=lambda by: errors[by])


def test_it_is_complete_and_small():
    assert "freedoom" in bundled_models()
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 18e6
    card = (FOLDER / "README.md").read_text()
    assert "Contributors to the Freedoom project" in card and "THIS SOFTWARE IS PROVIDED" in card
    measured = json.loads((FOLDER / "evaluation.json").read_text())
    assert {"autoencoder", "next_frame", "rollouts", "control", "monsters", "surprise"} <= measured.keys()


def test_it_has_the_actions_of_the_recorder(pipeline: StarFlowPipeline):
    from starflow.worlds.game import ACTION_SPACE

    space = pipeline.flow.action_space
    assert isinstance(space, ActionSpace)
    assert space == ACTION_SPACE
    assert [each.name for each in controls_of(space)] == ["move left", "move right", "shoot"]  # turning does nothing
    assert pipeline.codec.temporal_factor == 1 and pipeline.denoiser is not None and pipeline.denoiser.lookahead == 0


def test_the_world_moves_to_the_right_when_the_player_moves_to_the_left(pipeline: StarFlowPipeline):
    left, right = play(pipeline, [LEFT] * 6), play(pipeline, [RIGHT] * 6)
    assert shift(left[0], left[3]) > 0 > shift(right[0], right[3])


def test_the_same_actions_give_the_same_frames(pipeline: StarFlowPipeline):
    assert np.array_equal(play(pipeline, [LEFT, RIGHT]), play(pipeline, [LEFT, RIGHT]))
    assert not np.array_equal(play(pipeline, [LEFT, RIGHT]), play(pipeline, [LEFT, LEFT]))


@pytest.mark.parametrize("action", [[3, 0, 0], [1, 0], [float("nan"), 0, 0]])
def test_an_action_that_is_none_is_one_clear_error(pipeline: StarFlowPipeline, action: list[float]):
    with pytest.raises(UsageError, match="action"):
        play(pipeline, [action])


def test_a_rollout_begins_at_the_first_start(tmp_path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "actions.txt").write_text("1 0 0\n1 0 1\n")
    arguments = ["freedoom", "--actions", str(tmp_path / "actions.txt"), "-o", str(tmp_path / "clip.mp4")]
    assert run(["rollout", *arguments]) == 0
    assert (tmp_path / "clip.mp4").stat().st_size > 1000
