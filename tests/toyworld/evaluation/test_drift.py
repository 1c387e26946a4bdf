import numpy as np
import pytest
import torch

from starflow.evaluation.settings import EvaluationSettings
from starflow.toyworld.evaluation.drift import evaluate_drift, measure_second
from starflow.toyworld.evaluation.page import drift_section
from starflow.toyworld.evaluation.prompts import held_out_prompts
from starflow.toyworld.world.render import render
from starflow.toyworld.world.vocabulary import FPS
from tiny_pipeline import tiny_pipeline

SETTINGS = EvaluationSettings(seed=0, guidance_scale=1.0, tolerance=1e-2)


def test_a_second_of_true_clips_is_right_and_of_empty_clips_wrong():
    prompts = held_out_prompts(0, 6, 1)
    shades = [prompt.scene.background for prompt in prompts]
    clips = np.stack([render(prompt.scene, FPS) for prompt in prompts])
    true = measure_second(clips, prompts, shades)
    for name in ("present", "alone", "color", "shape", "background"):
        assert true[name]["correct"] == true[name]["n"] == 6
    assert true["sharpness"]["n"] == 6
    shifted = measure_second(clips, prompts[1:] + prompts[:1], shades[1:] + shades[:1])
    assert shifted["present"]["value"] == 1
    assert shifted["color"]["value"] < 1
    empty = measure_second(np.full_like(clips, 60), prompts, shades)
    assert empty["present"]["value"] == empty["alone"]["value"] == 0
    assert empty["sharpness"] is empty["color"]["value"] is empty["shape"]["value"] is None


def test_an_object_that_vanishes_after_two_seconds_is_measured_as_absent(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    pipeline = tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12)
    prompts = held_out_prompts(0, 2, 1)
    scenes = {prompt.caption: prompt.scene for prompt in prompts}
    call = type(pipeline).__call__

    def fading(self, captions: list[str], **options: object):
        output = call(self, captions, **options)
        assert output.frames.shape[1] == 3 * FPS + 1
        clips = np.stack([render(scenes[caption], 3 * FPS + 1) for caption in captions]) / 255
        clips[:, 2 * FPS :] = clips[:, 2 * FPS :, :1, :1]  # the background alone
        output.frames = clips
        return output

    monkeypatch.setattr(type(pipeline), "__call__", fading)
    measured = evaluate_drift(pipeline, prompts, 3, SETTINGS)
    generated = measured.results["generated"]
    assert [each["value"] for each in generated["present"]] == [1, 1, 0]
    assert [each["value"] for each in generated["background"]] == [1, 1, 1]
    assert [each is None for each in generated["sharpness"]] == [False, False, True]
    assert len(measured.results["ceiling"]["sharpness"]) == 3
    section = drift_section(measured)
    assert "Long videos: 2 of 3 s" in section
    assert section.count("data:image/svg+xml") == 1
