import numpy as np
import pytest

from starflow.worlds.episodes import Episode, replay
from starflow.worlds.evaluation import networks
from starflow.worlds.evaluation.action_reader import Reading, motion, train_action_reader
from starflow.worlds.evaluation.control import compare
from starflow.worlds.game import Action, Game

NAMES = np.array(["a", "a", "b", "b"])


def played(scenario: str, action: Action) -> Episode:
    with Game(scenario) as game:
        return replay(game, 1, np.array([Action(), *[action] * 6]))


def test_motion_has_the_signs_of_the_actions():
    left, right = (motion(played("basic", Action(move=way)).poses) for way in (1, 2))
    assert (left[3:, 0] < -1).all() and (right[3:, 0] > 1).all()
    assert np.abs(left[:, 1]).max() == 0 and not left[0].any()
    turned = motion(played("defend_the_center", Action(turn=1)).poses)
    assert (turned[2:, 1] > 5).all() and (turned[:, 1] < 20).all()  # also across 0°


def test_the_comparison_of_known_readings():
    truth = Reading(
        np.array([[1, 0, 0], [2, 0, 0], [0, 0, 0], [1, 0, 0]]), np.array([[-5, 0], [5, 0], [0, 0], [-4, 0]], float)
    )
    read = Reading(
        np.array([[1, 0, 0], [2, 0, 1], [0, 0, 0], [2, 0, 0]]), np.array([[-4, 0], [7, 0], [0.5, 0], [1, 0]], float)
    )
    results = compare(read, truth, NAMES)
    assert results["move"]["right"]["value"] == 0.75 and results["move"]["always"] == 0.5
    assert results["turn"] is results["attack"] is results["turn_angle"] is None  # the player never does it
    assert results["sideways"]["median_error"]["value"] == 1.5
    assert results["sideways"]["right_sign"]["value"] == pytest.approx(2 / 3)
    assert results["sideways"]["right_sign"]["n"] == 3


def test_a_reader_learns_to_tell_left_from_right(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(networks, "NUM_STEPS", 60)
    monkeypatch.setattr(networks, "BATCH_SIZE", 16)
    episodes = [played("basic", Action(move=way)) for way in (1, 2)]
    reader = train_action_reader(episodes)
    frames = np.stack([episode.frames for episode in episodes])
    reading = reader.read(frames)
    assert reading.actions.shape == (2, 5, 3) and reading.motion.shape == (2, 5, 2)
    assert (reading.actions[:, 1:, 0] == [[1], [2]]).all()
    assert (np.sign(reading.motion[:, 1:, 0]) == [[-1], [1]]).all()
    again = train_action_reader(episodes).read(frames)
    assert np.array_equal(again.motion, reading.motion)
