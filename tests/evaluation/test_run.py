import json
from pathlib import Path

import numpy as np
import pytest

from html_page import Page
from starflow.errors import StarflowError
from starflow.evaluation.contract import Check, Findings
from starflow.evaluation.run import Evaluation, evaluate, require_writable, write
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline
from tiny_source import ListOfClips, noise_clip

SETTINGS = EvaluationSettings(num_clips=5, seed=3)
PARTS = {"vae", "likelihood", "retrieval", "denoising", "speed", "samples"}


@pytest.fixture(scope="module")
def mixed(source: ListOfClips) -> ListOfClips:
    """Three clips, and one that is too short."""
    return ListOfClips([*source.clips, noise_clip(np.random.default_rng(1), "a short <clip>", num_frames=5)])


@pytest.fixture(scope="module")
def evaluation(pipeline: StarFlowPipeline, mixed: ListOfClips) -> Evaluation:
    return evaluate(pipeline, mixed, SETTINGS, "tiny <model>")


def test_the_results_have_every_key(evaluation: Evaluation, pipeline: StarFlowPipeline):
    results = evaluation.results
    assert set(results) == {"model", "data", *PARTS}
    model = results["model"]
    assert model["name"] == "tiny <model>"
    assert model["settings"] == {
        "num_clips": 5,
        "seed": 3,
        "guidance_scale": pipeline.config.guidance_scale,
        "sampler": pipeline.config.sampler,
        "tolerance": pipeline.config.tolerance,
    }
    parameters = model["parameters"]
    assert parameters["total"] == sum(parameters[name] for name in ("vae", "text_encoder", "flow", "denoiser"))
    assert parameters["flow"] == pipeline.flow.num_parameters()
    assert set(model["seconds"]) == {*PARTS, "total"}
    assert results["data"]["source"] == "a list"
    assert len(results["data"]["left_out"]) == 1
    assert results["vae"]["num_clips"] == results["samples"]["num_clips"] == 3
    assert results["retrieval"]["num_captions"] == 3


def test_the_same_seed_gives_the_same_results(evaluation: Evaluation, pipeline: StarFlowPipeline, mixed: ListOfClips):
    again = evaluate(pipeline, mixed, SETTINGS, "tiny").results
    for part in PARTS - {"speed"}:
        assert again[part] == evaluation.results[part]


def test_results_and_page_are_written(evaluation: Evaluation, tmp_path: Path):
    write(evaluation, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "table.md", "index.html"}
    assert json.loads((tmp_path / "evaluation.json").read_text()) == evaluation.results
    header, line, *rows = (tmp_path / "table.md").read_text().splitlines()
    assert (header, line) == ("| measured | value |", "|---|---|")
    assert len(rows) == len(evaluation.headlines)
    assert rows[0].startswith("| autoencoder, PSNR | ") and all(row.count("|") == 3 for row in rows)
    page = Page((tmp_path / "index.html").read_text())
    # Each clip plays and is shown as frames: 3 generated and true, 3 original and reconstructed, 3 of 4 methods.
    assert len(page.pictures) == 2 * 3 * (2 + 2 + 4)
    assert all(picture.startswith("data:image/") for picture in page.pictures)
    assert "Evaluation of tiny <model>" in page.text  # it is escaped
    assert "a short <clip>" in page.text
    assert all(caption in page.text for caption in CAPTIONS)
    write(evaluation, tmp_path)  # overwrites


def test_checks_add_results_settings_sections_and_headlines(pipeline: StarFlowPipeline, source: ListOfClips):
    findings = Findings({"beauty": 7}, "<h2>Beauty</h2>\n", [("beauty", "7 <small>of 10</small>")])
    check = Check("beauty", lambda: findings, {"num_judges": 3})
    unmeasured = Check("taste", lambda: Findings(None))
    evaluation = evaluate(pipeline, source, SETTINGS, "tiny", checks=[check, unmeasured])
    assert evaluation.results["beauty"] == {"beauty": 7}
    assert evaluation.results["taste"] is None
    assert evaluation.results["model"]["settings"]["num_judges"] == 3
    assert {"beauty", "taste"} <= set(evaluation.results["model"]["seconds"])
    assert evaluation.headlines[-1] == ("beauty", "7 <small>of 10</small>")
    assert "<h2>Beauty</h2>" in evaluation.page
    Page(evaluation.page)


def test_captions_with_the_same_meaning_are_not_ranked(pipeline: StarFlowPipeline, source: ListOfClips):
    evaluation = evaluate(pipeline, source, SETTINGS, "tiny", meaning=lambda caption: "the same")
    assert evaluation.results["retrieval"] is None
    Page(evaluation.page)


def test_an_image_model_without_a_denoiser_is_evaluated():
    model = tiny_pipeline(num_frames=1)
    model.denoiser = None
    rng = np.random.default_rng(0)
    pictures = ListOfClips([noise_clip(rng, caption, num_frames=1, fps=0) for caption in CAPTIONS])
    evaluation = evaluate(model, pictures, SETTINGS, "tiny")
    assert evaluation.results["vae"]["num_clips"] == 3
    assert evaluation.results["denoising"]["denoiser"] is None
    assert evaluation.results["speed"]["num_frames"] == 1
    assert len(Page(evaluation.page).pictures) == 3 * (2 + 2 + 3)  # one for each picture


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path):
    require_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(StarflowError, match="cannot write into"):
        require_writable(tmp_path / "file" / "folder")
