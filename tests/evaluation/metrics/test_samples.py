import numpy as np

from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.metrics.samples import NUM_SHOWN, generate_samples
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline


def test_samples_are_shown_beside_the_clips_with_their_captions(pipeline: StarFlowPipeline, clips: CaptionedClips):
    many = CaptionedClips(np.concatenate([clips.frames] * 4), clips.captions * 4)
    measured = generate_samples(pipeline, many, EvaluationSettings())
    assert measured.results["num_clips"] == len(measured.cards) == NUM_SHOWN
    assert measured.results["sampling"]["evaluations_per_token"] > 0
    assert [card.title for card in measured.cards] == many.captions[:NUM_SHOWN]
    np.testing.assert_array_equal(measured.cards[1].clips["true"], clips.frames[1])
    assert measured.cards[1].clips["generated"].shape == clips.frames[1].shape
