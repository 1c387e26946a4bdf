"""A session that is played by messages, with a tiny model."""

import json

import numpy as np
import pytest
import torch

from play_helpers import RATE, SPACE, frames_in, tiny_game, tiny_starts, unpacked
from starflow.errors import UsageError
from starflow.media.video import read_metadata, read_video
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.session import Session
from starflow.play import player as module
from starflow.play.player import MAX_WAITING, Player
from tiny_pipeline import CAPTIONS, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    return tiny_game()


@pytest.fixture
def player(pipeline: StarFlowPipeline) -> Player:
    return Player(pipeline, "tiny", tiny_starts(), seed=3)


def twin(pipeline: StarFlowPipeline, start: int = 0) -> Session:
    """The session that the player should have."""
    return tiny_starts()[start].session(pipeline, generator=torch.Generator().manual_seed(3))


def act(player: Player, *action: float, number: int = 1) -> None:
    player.take({"type": "action", "action": list(action), "id": number})


def test_the_page_is_told_what_it_shows(player: Player):
    hello = json.loads(json.dumps(player.hello()))
    assert (hello["model"], hello["width"], hello["height"], hello["fps"]) == ("tiny", 32, 32, RATE)
    assert hello["starts"] == ["hall", "nothing"]
    assert (hello["neutral"], [each["name"] for each in hello["controls"]]) == ([0, 0], ["left", "right", "shoot"])
    assert player.seconds_per_step == 1 / RATE


def test_first_comes_the_start_and_then_a_step_with_the_newest_action(player: Player, pipeline: StarFlowPipeline):
    session = twin(pipeline)
    header, data = unpacked(player.advance())
    assert data == session.frames.tobytes()
    assert (header["index"], header["action"], header["shape"], header["seed"]) == (1, 0, [1, 32, 32], 3)
    assert header["prompt"] == CAPTIONS[0]
    act(player, 1, 0, number=5)
    act(player, 2, 1, number=6)  # replaces the one before
    message = player.advance()
    assert unpacked(message)[0]["action"] == 6
    assert np.array_equal(frames_in(message), session.step([2, 1]))
    assert np.array_equal(frames_in(player.advance()), session.step([2, 1]))  # it is still held


def test_the_same_seed_and_actions_give_the_same_frames(pipeline: StarFlowPipeline):
    games = [Player(pipeline, "tiny", tiny_starts(), seed) for seed in (3, 3, 4)]
    for player in games:
        act(player, 1, 1)
    one, same, other = ([frames_in(player.advance()) for _ in range(4)] for player in games)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_no_step_is_made_before_the_client_has_shown_the_others(player: Player):
    player.advance(), player.advance()
    assert player.is_waiting
    player.take({"type": "seen", "index": 1})
    assert not player.is_waiting
    player.advance()
    assert player.is_waiting
    player.take({"type": "seen", "index": 1000})  # it cannot have
    player.advance(), player.advance()
    assert player.is_waiting
    player.take({"type": "rewind", "steps": 1})
    assert not player.is_waiting  # what is asked for is shown in a pause, too


def test_rewind_goes_back_as_far_as_it_can_and_brings_the_same_frames_again(player: Player):
    start, *steps = (frames_in(player.advance()) for _ in range(5))
    player.take({"type": "rewind", "steps": 2})
    assert np.array_equal(frames_in(player.advance()), steps[1])
    assert np.array_equal(frames_in(player.advance()), steps[2])
    player.take({"type": "rewind", "steps": 1000})
    assert np.array_equal(frames_in(player.advance()), start)
    assert np.array_equal(frames_in(player.advance()), steps[0])


def test_reset_begins_at_a_start_with_other_noise(player: Player, pipeline: StarFlowPipeline):
    player.advance(), player.advance()
    player.take({"type": "reset", "start": "nothing"})
    header, _ = unpacked(player.advance())
    assert header["prompt"] == CAPTIONS[1] and header["seed"] != 3
    expected = tiny_starts()[1].session(pipeline, generator=torch.Generator().manual_seed(header["seed"]))
    assert np.array_equal(player.session.frames, expected.frames)


def test_a_caption_changes_what_follows(player: Player, pipeline: StarFlowPipeline):
    session = twin(pipeline)
    player.advance()
    player.take({"type": "say", "prompt": CAPTIONS[2]})
    header, data = unpacked(player.advance())
    assert (header["prompt"], data) == (CAPTIONS[2], session.frames.tobytes())
    session.say(CAPTIONS[2])
    assert np.array_equal(frames_in(player.advance()), session.step([0, 0]))


def test_the_surprise_is_that_of_the_session_and_changes_no_frame(player: Player, pipeline: StarFlowPipeline):
    session = twin(pipeline)
    player.take({"type": "surprise", "on": True})
    assert unpacked(player.advance())[0]["surprise"] is None  # nothing was sampled yet
    for _ in range(6):
        message = player.advance()
        assert np.array_equal(frames_in(message), session.step([0, 0]))
        np.testing.assert_allclose(unpacked(message)[0]["surprise"], session.surprise(), rtol=1e-5)
    player.take({"type": "surprise", "on": False})
    assert unpacked(player.advance())[0]["surprise"] is None


def test_the_clip_has_what_was_played(player: Player, tmp_path):
    frames = [frames_in(player.advance())[0] for _ in range(6)]
    player.take({"type": "rewind", "steps": 2})
    player.advance()
    header, data = unpacked(player.clip())
    assert header == {"type": "clip", "name": "tiny-3.mp4"}
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    shown, played = (np.mean(each, axis=-1) for each in (read_video(path)[0], frames))  # H.264 blurs colors
    assert shown.shape == (4, 32, 32)
    differences = np.abs(shown[:, None] - played).mean(axis=(2, 3))
    assert differences.argmin(axis=1).tolist() == [0, 1, 2, 3]
    assert read_metadata(path)["seed"] == 3


def test_the_clip_keeps_the_last_frames_only(pipeline: StarFlowPipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_CLIP_BYTES", 1)
    monkeypatch.setattr(module, "MAX_REWIND", 2)
    player = Player(pipeline, "tiny", tiny_starts(), seed=3)
    for _ in range(9):
        player.advance()
    assert len(player._recorded) == 3
    player.take({"type": "rewind", "steps": 2})
    player.advance()
    assert len(player._recorded) == 1


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"type": "action", "action": [3, 0], "id": 1}, "a whole number from 0 to 2, not 3"),
        ({"type": "action", "action": [0, float("nan")], "id": 1}, "NaN"),
        ({"type": "action", "action": [0], "id": 1}, r"shape \(1, 2\)"),
        ({"type": "action", "action": [0, 0, 0], "id": 1}, r"shape \(1, 2\)"),
        ({"type": "action", "action": "left", "id": 1}, "must be numbers"),
        ({"type": "action", "action": None, "id": 1}, "actions must"),
        ({"type": "action", "action": [0, 0]}, "no message of a player"),
        ({"type": "seen", "index": "1"}, "no message of a player"),
        ({"type": "rewind", "steps": -1}, "no message of a player"),
        ({"type": "reset", "start": "elsewhere"}, "no message of a player"),
        ({"type": "say", "prompt": 3}, "no message of a player"),
        ({}, "no message of a player"),
    ],
)
def test_bad_messages_are_one_clear_error_and_change_nothing(
    player: Player, pipeline: StarFlowPipeline, message: dict, problem: str
):
    player.advance()
    with pytest.raises(UsageError, match=problem):
        player.take(message)
    assert np.array_equal(frames_in(player.advance()), twin(pipeline).step([0, 0]))


def test_commands_do_not_pile_up(player: Player):
    rewind = {"type": "rewind", "steps": 1}
    for _ in range(MAX_WAITING - 1):  # beside that which shows the start
        player.take(rewind)
    with pytest.raises(UsageError, match="too much at once"):
        player.take(rewind)


def test_a_model_that_takes_no_actions_is_watched():
    player = Player(tiny_pipeline(), "tiny", [tiny_starts()[1]])
    hello = player.hello()
    assert (hello["neutral"], hello["controls"], hello["frames_per_step"]) == (None, [], 4)
    assert unpacked(player.advance())[0]["shape"] == [1, 32, 32]
    assert unpacked(player.advance())[0]["shape"] == [4, 32, 32]
    with pytest.raises(UsageError, match="takes no actions"):
        act(player, 1)


def test_every_action_of_a_space_is_taken(player: Player):
    for move in range(SPACE.sizes[0]):
        for attack in range(SPACE.sizes[1]):
            act(player, move, attack)
