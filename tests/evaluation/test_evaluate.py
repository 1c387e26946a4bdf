import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from starflow.errors import StarflowError, UsageError
from starflow.evaluation.run import Evaluation, EvaluationSettings, evaluate, require_writable, write
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import tiny_pipeline

SETTINGS = EvaluationSettings(
    num_prompts=2, num_two_object_prompts=2, num_clips=2, task_clips=1, long_clips=1, long_seconds=3, seed=3
)
PARTS = {"vae", "likelihood", "retrieval", "surprise", "denoising", "compliance", "tasks", "drift"}


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12)


@pytest.fixture(scope="module")
def evaluation(pipeline: StarFlowPipeline) -> Evaluation:
    return evaluate(pipeline, SETTINGS, "tiny <model>")


PROPORTIONS = {"color", "shape", "size", "motion", "color_shape_motion", "count", "background", "all"}


def test_every_key_is_there(evaluation: Evaluation, pipeline: StarFlowPipeline):
    results = evaluation.results
    assert set(results) == {"model", *PARTS}
    model = results["model"]
    assert model["name"] == "tiny <model>"
    assert model["settings"] == {
        "seed": 3,
        "guidance_scale": pipeline.config.guidance_scale,
        "sampler": pipeline.config.sampler,
        "tolerance": pipeline.config.tolerance,
        "prompts": "held out",
        "num_prompts": 2,
        "num_two_object_prompts": 2,
        "num_clips": 2,
        "task_clips": 1,
        "long_clips": 1,
        "long_seconds": 3,
    }
    parameters = model["parameters"]
    assert parameters["total"] == sum(parameters[name] for name in ("vae", "text_encoder", "flow", "denoiser"))
    assert parameters["flow"] == pipeline.flow.num_parameters()
    assert set(model["seconds"]) == {*PARTS, "total"}
    for group in ("one_object", "two_objects"):
        for column in ("generated", "ceiling", "floor"):
            assert set(results["compliance"][group][column]) == PROPORTIONS | {"per_motion"}


def test_the_same_seed_gives_the_same_results(evaluation: Evaluation, pipeline: StarFlowPipeline):
    again = evaluate(pipeline, SETTINGS, "tiny").results
    for part in PARTS:
        assert again[part] == evaluation.results[part]


class Page(HTMLParser):
    """What a page holds, and whether its tags close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str):
        assert self.open.pop() == tag

    def handle_data(self, data: str):
        self.text += data


def test_what_is_written(evaluation: Evaluation, tmp_path: Path):
    write(evaluation, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "index.html"}
    assert json.loads((tmp_path / "evaluation.json").read_text()) == evaluation.results
    page = Page((tmp_path / "index.html").read_text())
    assert page.open == []
    # 2 charts; each clip plays and is shown as frames: 4 examples, 2 × 2 reconstructions, 2 × 4 denoised, 4 × 2 with
    # their surprise
    evaluated = 2 + 2 * (4 + 4 + 8 + 8)
    # pictures given are still: image to video, continuation, two edits, last frames
    tasks = (1 + 2 * 2) + 2 * 2 + 2 * 2 * 3 + (1 + 2 * 2)
    assert len(page.sources) == evaluated + tasks + 3  # a long clip, and what becomes of it
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "Evaluation of tiny <model>" in page.text  # escaped
    assert all(example.prompt.caption in page.text for example in evaluation.pictures.examples)
    write(evaluation, tmp_path)  # over what is there


def test_captions_from_a_file(pipeline: StarFlowPipeline, tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("a red circle\n")  # without a motion, and nothing with two objects
    settings = EvaluationSettings(num_clips=1, task_clips=0, long_clips=0, prompts=path)
    evaluation = evaluate(pipeline, settings, "tiny")
    compliance: dict[str, Any] = evaluation.results["compliance"]
    assert compliance["prompts"] == "mine.txt"
    assert compliance["one_object"]["num_prompts"] == 1
    assert compliance["one_object"]["generated"]["motion"]["value"] is None
    assert compliance["one_object"]["floor"] is None
    assert compliance["two_objects"] is None
    assert evaluation.results["tasks"] is evaluation.results["drift"] is None
    write(evaluation, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "One object: 1 captions (mine.txt)" in page
    assert "Image to video" not in page
    assert "Long videos" not in page


def test_only_toyworld_models():
    with pytest.raises(UsageError, match="9 frames of 32×32"):
        evaluate(tiny_pipeline(), SETTINGS, "tiny")


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    require_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(StarflowError, match="cannot write into"):
        require_writable(tmp_path / "file" / "folder")
