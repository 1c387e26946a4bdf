import numpy as np
import pytest

from starflow.evaluation import generation
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS

SETTINGS = EvaluationSettings(seed=0, guidance_scale=2.0, tolerance=1e-4)


def test_a_clip_depends_on_its_index_and_the_seed_but_not_on_the_batch(
    pipeline: StarFlowPipeline, monkeypatch: pytest.MonkeyPatch
):
    together, report = generate(pipeline, CAPTIONS, SETTINGS, "", purpose=1)
    assert sampling_results(report)["converged"]
    monkeypatch.setattr(generation, "TOKENS_AT_ONCE", 24)  # two clips
    apart, _ = generate(pipeline, CAPTIONS, SETTINGS, "", purpose=1)
    assert np.abs(together.astype(int) - apart).max() <= 2  # of 255: within the solver's tolerance
    assert np.abs(together[0].astype(int) - together[1]).max() > 2
    other_seed = EvaluationSettings(seed=1, guidance_scale=2.0, tolerance=1e-4)
    for settings, purpose in ((other_seed, 1), (SETTINGS, 2)):
        other, _ = generate(pipeline, CAPTIONS[:1], settings, "", purpose=purpose)
        assert np.abs(together[0].astype(int) - other[0]).max() > 2
