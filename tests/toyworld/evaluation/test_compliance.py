import numpy as np
import pytest
import torch

from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.compliance import evaluate_compliance, score
from starflow.toyworld.evaluation.prompts import held_out_prompts
from starflow.toyworld.reader.checker import check
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene
from tiny_pipeline import tiny_pipeline

NAMES = ("color", "shape", "motion", "color_shape_motion", "count", "all")


def test_true_clips_score_one_and_empty_clips_zero():
    prompts = held_out_prompts(0, 6, 1)
    right = score([check(render(prompt.scene), prompt.description) for prompt in prompts])
    for name in NAMES:
        assert right[name]["value"] == 1
        assert right[name]["n"] == 6
    said_sizes = sum(prompt.description.objects[0].size is not None for prompt in prompts)
    assert right["size"]["n"] == said_sizes < 6
    assert sum(each["n"] for each in right["per_motion"].values()) == 6
    wrong = score([check(np.full_like(render(prompts[0].scene), 60), prompt.description) for prompt in prompts])
    assert {wrong[name]["value"] for name in NAMES} == {0}


def test_both_objects_must_be_right():
    (prompt,) = held_out_prompts(0, 1, 2)
    lone = render(Scene(prompt.scene.objects[:1], prompt.scene.background))
    result = score([check(lone, prompt.description)])
    assert result["color"]["value"] == result["count"]["value"] == result["all"]["value"] == 0
    assert sum(each["n"] for each in result["per_motion"].values()) == 2
    assert sum(each["correct"] for each in result["per_motion"].values()) == 1


def test_a_model_that_is_always_right_scores_one(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    pipeline = tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12)
    prompts = held_out_prompts(0, 4, 1)
    scenes = {prompt.caption: prompt.scene for prompt in prompts}
    call = type(pipeline).__call__

    def perfect(self: StarFlowPipeline, captions: list[str], **settings: object):
        output = call(self, captions, **settings)
        output.frames = np.stack([render(scenes[caption]) for caption in captions]) / 255
        return output

    monkeypatch.setattr(type(pipeline), "__call__", perfect)
    settings = EvaluationSettings(guidance_scale=2.0, tolerance=1e-2)
    measured = evaluate_compliance(pipeline, prompts, settings, "")
    results = measured.results
    assert results["generated"]["all"]["value"] == 1
    assert results["floor"]["all"]["value"] < 1  # each clip against another's caption
    assert results["ceiling"]["all"]["value"] < 1  # the autoencoder is random
    assert results["sampling"]["converged"]
    assert [card.title for card in measured.cards] == [prompt.caption for prompt in prompts]
    np.testing.assert_array_equal(measured.cards[1].clips[""], render(prompts[1].scene))
    said = prompts[1].description.objects[0]
    assert {(said.color, True), (said.shape, True), (said.motion, True)} <= set(measured.cards[1].marks)
    assert evaluate_compliance(pipeline, prompts[:1], settings, "").results["floor"] is None
