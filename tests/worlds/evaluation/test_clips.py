import numpy as np
import pytest

from starflow.errors import UsageError
from starflow.worlds.episodes import load_episode
from starflow.worlds.evaluation.clips import CONTEXT, game_clips
from starflow.worlds.source import Episodes


def test_a_clip_is_a_part_of_its_episode_and_ends_with_it(held_out: Episodes):
    clips = game_clips(held_out, 100)
    assert len(clips) == sum(len(load_episode(file).frames) > CONTEXT for file in held_out.files)
    for row, (episode, start) in enumerate(zip(clips.episodes, clips.starts, strict=True)):
        length = len(episode.frames)
        assert clips.exists[row].sum() == min(length - start, 40)
        assert np.array_equal(clips.frames[row, : length - start], episode.frames[start : start + 40])
        assert (clips.frames[row, length - start :] == episode.frames[-1]).all()
        assert not clips.actions[row, length - start :].any()
        assert clips.names[row] == f"{episode.scenario} {episode.seed}"
    assert not clips.exists.all()
    assert clips.captions[0] == "a hall with one monster"


def test_a_limited_number_of_clips_is_spread_over_the_episodes(held_out: Episodes):
    assert set(game_clips(held_out, 2).scenarios) == {"basic", "take_cover"}


def test_excerpts_have_only_frames_of_the_episode(held_out: Episodes):
    clips = game_clips(held_out, 100)
    excerpts = clips.excerpts((0, 8), 9)
    assert excerpts.exists.all() and len(excerpts) > len(clips)
    assert np.array_equal(excerpts.frames[0], clips.frames[0, :9])
    assert np.array_equal(excerpts.frames[1], clips.frames[0, 8:17])


def test_episodes_that_are_too_short_are_refused(held_out: Episodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("starflow.worlds.evaluation.clips.CONTEXT", 48)
    with pytest.raises(UsageError, match=r"no episode in .* has more than 48 frames"):
        game_clips(held_out, 1)
