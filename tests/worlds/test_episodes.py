"""Recording and replaying real episodes of ViZDoom."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from starflow.data.sources import build_source
from starflow.errors import StarflowError, UsageError

pytest.importorskip("vizdoom", reason="the extra worlds is not installed")

from starflow.cli.main import run
from starflow.worlds.episodes import Episode, load_episode, record, replay, save_episode
from starflow.worlds.game import ACTION_SPACE, FPS, SCENARIOS, Action, Game
from starflow.worlds.policies import POLICIES

FRAMES = 24


@pytest.fixture(scope="module", params=SCENARIOS)
def game(request: pytest.FixtureRequest) -> Iterator[Game]:
    with Game(request.param) as game:
        yield game


@pytest.fixture(scope="module")
def episode(game: Game) -> Episode:
    return record(game, 3, "persistent", FRAMES)


def assert_equal(one: Episode, other: Episode, stop: int | None = None) -> None:
    for name in ("frames", "actions", "monsters", "poses"):
        assert np.array_equal(getattr(one, name)[:stop], getattr(other, name)[:stop]), name


def test_an_episode_has_a_picture_an_action_and_the_truth_for_each_frame(episode: Episode):
    assert episode.frames.shape == (FRAMES, 64, 64, 3) and episode.frames.std() > 5
    assert episode.actions.shape == (FRAMES, 3) and not episode.actions[0].any()
    assert ACTION_SPACE.check(episode.actions, FRAMES).shape == (FRAMES, 3)
    assert episode.monsters.shape == (FRAMES, 64, 64) and episode.monsters.any()
    assert episode.poses.shape == (FRAMES, 3)
    assert episode.caption.startswith(SCENARIOS[episode.scenario])


@pytest.mark.parametrize("policy", POLICIES)
def test_seed_and_policy_determine_an_episode_bit_for_bit(game: Game, policy: str):
    one = record(game, 5, policy, FRAMES)
    record(game, 6, policy, FRAMES)
    with Game(game.scenario) as other_game:
        assert_equal(record(other_game, 5, policy, FRAMES), one)


def test_a_replay_with_the_same_actions_is_the_episode(game: Game, episode: Episode):
    assert_equal(replay(game, episode.seed, episode.actions), episode)


def test_a_counterfactual_has_the_same_past_and_another_future(game: Game, episode: Episode):
    branch = 8
    actions = episode.actions.copy()
    opposite = {1: 2, 2: 1, 0: 1}
    part = 0 if "MOVE_LEFT" in game.buttons else 1
    actions[branch:, part] = [opposite[int(each)] for each in actions[branch:, part]]
    other = replay(game, episode.seed, actions)
    assert_equal(other, episode, branch)
    assert not np.array_equal(other.frames[branch : branch + 4], episode.frames[branch : branch + 4])


def test_actions_do_what_they_say(game: Game):
    def last_pose(action: Action) -> np.ndarray:
        return replay(game, 1, np.array([Action(), *[action] * 4])).poses[-1]

    still = last_pose(Action())
    if "MOVE_LEFT" in game.buttons:
        left, right = (last_pose(Action(move=way)) - still for way in (1, 2))
        assert np.abs(left[:2]).max() > 1 and np.abs(left + right)[:2].max() < 1
    else:
        left, right = ((last_pose(Action(turn=way)) - still)[2] for way in (1, 2))
        assert (left + 180) % 360 - 180 > 5
        assert (right + 180) % 360 - 180 < -5


def test_a_saved_episode_is_read_back(episode: Episode, tmp_path: Path):
    again = load_episode(save_episode(episode, tmp_path))
    assert_equal(again, episode)
    assert (again.scenario, again.seed, again.policy, again.caption) == (
        episode.scenario,
        episode.seed,
        episode.policy,
        episode.caption,
    )


def test_the_command_records_what_is_missing_and_leaves_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    command = ["record", "take_cover", "-o", "episodes", "--max-frames", "6"]
    assert run([*command, "--episodes", "2"]) == 0
    assert run([*command, "--episodes", "3"]) == 0
    assert "1 new episodes of take_cover, 6 frames" in capsys.readouterr().out
    assert os.listdir() == ["episodes"]
    assert sorted(os.listdir("episodes")) == [f"take_cover-00000{seed}.safetensors" for seed in range(3)]
    source = build_source({"source": "episodes", "path": "episodes"})
    clip = source[1]
    assert (len(source), clip.fps, clip.video.shape, clip.actions.shape) == (3, FPS, (6, 64, 64, 3), (6, 3))
    assert source.action_space == ACTION_SPACE
    assert clip.marks.shape == (6, 64, 64) and clip.marks.any()
    before = source.fingerprint
    (tmp_path / "episodes" / "take_cover-000000.safetensors").unlink()
    assert build_source({"source": "episodes", "path": "episodes"}).fingerprint != before


def test_the_aiming_player_hits_monsters():
    """The episode of `basic` ends with the monster; else it lasts 72 frames."""
    with Game("basic") as game:
        lengths = [len(record(game, seed, "aiming", 100).frames) for seed in range(5)]
    assert sum(length < 50 for length in lengths) >= 4
    with Game("defend_the_center") as game:
        assert "a monster is killed" in record(game, 0, "aiming", 100).caption


def test_what_cannot_be_recorded_or_read_is_one_clear_error(tmp_path: Path):
    with pytest.raises(UsageError, match="there is no scenario 'basics': did you mean basic"):
        Game("basics")
    with pytest.raises(UsageError, match="holds no recorded episodes"):
        build_source({"source": "episodes", "path": str(tmp_path)})
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(StarflowError, match="cannot read the episode"):
        build_source({"source": "episodes", "path": str(tmp_path)})[0]
