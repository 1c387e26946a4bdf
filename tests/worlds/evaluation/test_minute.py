import numpy as np

from starflow.worlds.evaluation.clips import game_clips
from starflow.worlds.evaluation.minute import endless_actions, per_second
from starflow.worlds.source import Episodes


def test_every_frame_of_a_minute_belongs_to_one_second():
    values = np.broadcast_to(np.arange(525, dtype=np.float32), (2, 525))
    seconds = per_second(values)
    assert len(seconds) == 60 and seconds[0].shape == (2,)
    assert np.allclose(np.diff([each[0] for each in seconds]), 8.75, atol=1)


def test_actions_go_on_after_their_episode(held_out: Episodes):
    clips = game_clips(held_out, 100)
    episode, length = clips.episodes[0], len(clips.episodes[0].frames)
    actions = endless_actions(clips, 0, 300)
    assert actions.shape == (300, 3)
    assert np.array_equal(actions[:length], episode.actions)
    assert actions[length:].any(axis=1).mean() > 0.5
