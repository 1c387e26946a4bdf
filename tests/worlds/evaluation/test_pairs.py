import numpy as np

from starflow.worlds.evaluation.clips import CONTEXT
from starflow.worlds.evaluation.material import Material
from starflow.worlds.evaluation.pairs import NUM_FRAMES, make_pairs


def test_the_key_tells_which_clip_is_generated(material: Material):
    measured = make_pairs(material)
    clips = material.clips
    assert measured.results["num_pairs"] == len(measured.cards) == clips.exists[:, CONTEXT + NUM_FRAMES - 1].sum()
    for solution, card in zip(measured.results["key"], measured.cards, strict=True):
        rows = [row for row, name in enumerate(clips.names) if name == solution["episode"]]
        (row,) = (row for row in rows if clips.starts[row] + CONTEXT == solution["start"])
        span = slice(CONTEXT, CONTEXT + NUM_FRAMES)
        true = "AB".replace(solution["generated"], "")
        assert np.array_equal(card.clips[solution["generated"]], material.rollouts[row, span])
        assert np.array_equal(card.clips[true], clips.frames[row, span])
        assert list(card.clips) == ["A", "B"]
    assert make_pairs(material).results == measured.results
