import numpy as np
import pytest
import torch

from starflow.errors import StarflowError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.worlds.episodes import Episode
from starflow.worlds.evaluation.clips import CONTEXT, GameClips
from starflow.worlds.evaluation.material import Material
from starflow.worlds.evaluation.surprise import detection, frame_surprise, other_frames

NAMES = np.array(["a", "b", "c", "d"])


def test_frames_that_surprise_more_are_detected():
    true = np.array([1.0, 2, 3, 4])
    results = detection(true + 10, true, NAMES)
    assert results["auroc"]["value"] == results["larger"]["value"] == 1
    assert detection(true + 0.5, true, NAMES)["auroc"]["value"] == 0.625  # 10 of 16 pairs
    assert detection(true, true, NAMES)["auroc"]["value"] == 0.5


def test_another_action_leads_to_another_frame(material: Material):
    clips = GameClips(material.clips.episodes, material.clips.starts, CONTEXT + 1)
    others = dict(other_frames(clips, 0, seed=0))
    assert len(others) > 1
    for row, frame in others.items():
        difference = np.abs(frame.astype(int) - clips.frames[row, -1])
        assert 0.1 < difference.mean() < 60  # the same place, seen from elsewhere
    assert not dict(other_frames(clips, 1, seed=0))  # nobody turns here


def test_episodes_that_the_game_plays_otherwise_are_an_error(material: Material):
    first = material.clips.episodes[0]
    values = {name: getattr(first, name) for name in ("scenario", "seed", "policy", "caption", "frames", "monsters")}
    moved = Episode(**values, actions=first.actions, poses=first.poses + 1)
    with pytest.raises(StarflowError, match="record it anew"):
        dict(other_frames(GameClips([moved], [0], CONTEXT + 1), 0, seed=0))


def test_the_surprise_depends_on_actions_of_this_frame_and_before(pipeline: StarFlowPipeline, material: Material):
    clips = material.clips.excerpts((0,), 6)
    actions = clips.actions.copy()
    actions[:, 4, 0] = (actions[:, 4, 0] + 1) % 3
    one, other = (frame_surprise(pipeline, clips.frames, clips.captions, each, 0) for each in (clips.actions, actions))
    torch.testing.assert_close(one[:, :4], other[:, :4], rtol=1e-4, atol=1e-3)
    assert (np.abs(one[:, 4] - other[:, 4]) > 1e-3).all()
