from pathlib import Path

import pytest
import torch

from html_page import Page
from starflow.errors import UsageError
from starflow.evaluation.run import Evaluation
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.checks import ToyworldSettings, evaluate_toyworld, objects_said
from tiny_pipeline import tiny_pipeline

SETTINGS = EvaluationSettings(num_clips=2, seed=3)
TOYWORLD = ToyworldSettings(num_prompts=2, num_two_object_prompts=2, task_clips=1, long_clips=1, long_seconds=3)
PROPORTIONS = {"color", "shape", "size", "motion", "color_shape_motion", "count", "background", "all"}


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12)


@pytest.fixture(scope="module")
def evaluation(pipeline: StarFlowPipeline) -> Evaluation:
    return evaluate_toyworld(pipeline, SETTINGS, TOYWORLD, "tiny")


def test_every_key_is_there(evaluation: Evaluation):
    results = evaluation.results
    toyworld = {
        "prompts": "held out",
        "num_prompts": 2,
        "num_two_object_prompts": 2,
        "task_clips": 1,
        "long_clips": 1,
        "long_seconds": 3,
    }
    assert toyworld.items() <= results["model"]["settings"].items()
    assert {"surprise", "compliance", "tasks", "drift"} <= set(results["model"]["seconds"])
    for group in ("one_object", "two_objects"):
        for column in ("generated", "ceiling", "floor"):
            assert set(results["compliance"][group][column]) == PROPORTIONS | {"per_motion"}
    assert set(results["tasks"]) == {"image_to_video", "continuation", "video_to_video", "last_frame"}
    assert len(results["drift"]["generated"]["sharpness"]) == 3
    assert len(results["surprise"]["violations"]) == 4


def test_the_page_and_the_headlines(evaluation: Evaluation):
    page = Page(evaluation.page)
    # Each clip plays and is shown as frames: 2 samples, 2 reconstructions, 2 of 4 methods, 4 violations.
    general, surprise = 2 * 2 * (2 + 2 + 4), 2 * 4 * 2
    compliance = 2 + 2 * 4  # with a chart for each group
    # Given pictures are still: image to video, continuation, two edits, last frames.
    tasks = (1 + 2 * 2) + 2 * 2 + 2 * 2 * 3 + (1 + 2 * 2)
    assert len(page.pictures) == general + surprise + compliance + tasks + 3  # and a long clip with its chart
    assert [label for label, _ in evaluation.headlines if label.startswith("two objects")] == [
        "two objects: color, shape and motion",
        "two objects: everything that the caption says",
    ]


def test_captions_from_a_file(pipeline: StarFlowPipeline, tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("a red circle\n")  # no motion, and no caption of two objects
    toyworld = ToyworldSettings(task_clips=0, long_clips=0, prompts=path)
    evaluation = evaluate_toyworld(pipeline, EvaluationSettings(num_clips=1), toyworld, "tiny")
    compliance = evaluation.results["compliance"]
    assert compliance["prompts"] == "mine.txt"
    assert compliance["one_object"]["num_prompts"] == evaluation.results["model"]["settings"]["num_prompts"] == 1
    assert compliance["one_object"]["generated"]["motion"]["value"] is None
    assert compliance["one_object"]["floor"] is None
    assert compliance["two_objects"] is None
    assert evaluation.results["tasks"] is evaluation.results["drift"] is evaluation.results["retrieval"] is None
    assert "One object: 1 captions (mine.txt)" in evaluation.page
    assert "Image to video" not in evaluation.page
    assert "Long videos" not in evaluation.page


def test_paraphrases_say_the_same():
    said = objects_said("a red circle moves right")
    assert objects_said("the small scarlet disc glides to the right") == said
    assert objects_said("a blue circle moves right") != said


def test_other_models_need_other_clips():
    with pytest.raises(UsageError, match=r"9 frames of 32×32 .*--data"):
        evaluate_toyworld(tiny_pipeline(), SETTINGS, TOYWORLD, "tiny")
