import numpy as np
import pytest
import torch

from starflow.errors import StarflowError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation import surprise
from starflow.toyworld.evaluation.surprise import detection, evaluate_surprise, surprise_maps
from starflow.toyworld.world.violations import VIOLATIONS
from tiny_pipeline import tiny_pipeline


def test_detection_of_clips_that_differ():
    normal = np.random.default_rng(0).uniform(size=(4, 5, 2, 2)).astype(np.float32)
    wrong = normal.copy()
    where = np.array([1, 2, 3, 4])
    wrong[range(4), where] += 10
    results = detection(wrong, normal, where)
    assert results["auroc"] == 1
    assert results["located"]["value"] == 1
    assert results["coincidence"]["correct"] == (normal.sum(axis=(2, 3)).argmax(axis=1) == where).sum()
    assert detection(normal, wrong, where)["auroc"] == 0


def test_detection_of_clips_that_are_the_same():
    same = np.ones((3, 5, 2, 2), dtype=np.float32)
    results = detection(same, same, np.array([0, 1, 2]))
    assert results["auroc"] == 0.5
    assert results["located"]["correct"] == 1


def test_maps_do_not_depend_on_the_batch_except_for_the_noise(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    pipeline = tiny_pipeline(noise_std=0.0, num_frames=17, height=64, width=64, max_text_tokens=12)
    clips = np.random.default_rng(0).integers(0, 256, (3, 17, 64, 64, 3), dtype=np.uint8)
    captions = ["a red circle", "a blue square", "a green triangle"]
    together = surprise_maps(pipeline, clips, captions, 0)
    monkeypatch.setattr(surprise, "TOKENS_AT_ONCE", 160)  # two clips
    apart = surprise_maps(pipeline, clips, captions, 0)
    assert together.shape == (3, 5, 4, 4)
    np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-3)


def test_results_of_every_violation_with_a_picture():
    torch.manual_seed(0)
    pipeline = tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12)
    measured = evaluate_surprise(pipeline, 0, num_clips=2)
    assert measured.results["num_clips"] == 2
    assert list(measured.results["violations"]) == list(VIOLATIONS)
    for violation, card in zip(VIOLATIONS, measured.cards, strict=True):
        assert violation in card.title
        assert card.clips["clip"].shape == card.clips["surprise"].shape == (17, 64, 64, 3)
    with torch.no_grad():
        pipeline.flow.deep.proj_out.bias[0] = torch.nan
    with pytest.raises(StarflowError, match="NaN"):
        evaluate_surprise(pipeline, 0, num_clips=1)


def test_the_bundled_model_is_surprised_by_impossible_events():
    measured = evaluate_surprise(StarFlowPipeline.from_pretrained("toyworld"), 0, num_clips=5)
    for violation, results in measured.results["violations"].items():
        assert results["auroc"] > 0.7, violation
        assert results["located"]["correct"] >= 3, violation
