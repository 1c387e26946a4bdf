import json
from pathlib import Path
from typing import Any

import pytest

from html_page import Page
from starflow.cli.main import run
from starflow.errors import UsageError
from starflow.evaluation import statistics
from starflow.evaluation.contract import Findings
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.worlds.evaluation import minute, networks
from starflow.worlds.evaluation.checks import FreedoomSettings, evaluate_freedoom, freedoom_checks
from starflow.worlds.evaluation.material import Material
from starflow.worlds.source import Episodes
from tiny_pipeline import tiny_pipeline

FREEDOOM = FreedoomSettings(game_clips=4, minutes=2)


@pytest.fixture(scope="module")
def findings(material: Material) -> dict[str, Findings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "NUM_STEPS", 3)
        patch.setattr(minute, "SECONDS", 2)
        patch.setattr(statistics, "NUM_RESAMPLES", 20)
        return {check.name: check.run() for check in freedoom_checks(material, FREEDOOM)}


def test_every_check_has_results_a_section_and_headlines(findings: dict[str, Findings]):
    assert set(findings) == {
        "autoencoder",
        "next_frame",
        "rollouts",
        "control",
        "monsters",
        "minute",
        "surprise",
        "pairs",
    }
    for name in ("autoencoder", "next_frame", "rollouts", "control", "monsters"):
        assert {"all", "basic", "take_cover"} <= set(findings[name].results or {}), name
    for name, each in findings.items():
        json.dumps(each.results, allow_nan=False)
        assert Page(each.section).text.strip(), name
        assert bool(each.headlines) == (name != "pairs")
    labels = [label for each in findings.values() for label, _ in each.headlines]
    assert len(labels) == len(set(labels))


def test_the_results_are_plausible(findings: dict[str, Findings]):
    results: dict[str, Any] = {name: each.results for name, each in findings.items()}
    rollouts = results["rollouts"]["all"]
    assert all(len(column) == 5 for column in rollouts.values())
    assert rollouts["rollout"][0]["n"] > rollouts["rollout"][-1]["n"] > 0  # some episodes end
    assert len(results["minute"]["rollout"]["sharpness"]) == 2
    assert results["surprise"]["turn"] is None  # no scenario has it
    assert results["surprise"]["move"]["num_frames"] > 1
    assert 0 <= results["surprise"]["move"]["auroc"]["value"] <= 1
    assert results["pairs"]["num_pairs"] == len(results["pairs"]["key"]) > 0
    repeated = results["next_frame"]["all"]["repeated"]
    assert repeated["changed_psnr"]["value"] < repeated["psnr"]["value"] <= repeated["mean_psnr"]["value"]


def test_models_and_episodes_that_do_not_fit_are_refused(
    pipeline: StarFlowPipeline, held_out: Episodes, training: Episodes
):
    settings = EvaluationSettings()
    with pytest.raises(UsageError, match="does not take the actions"):
        evaluate_freedoom(tiny_pipeline(), held_out, training, settings, FREEDOOM, "tiny")
    with pytest.raises(UsageError, match=r"basic-100000\.safetensors is held out and also an episode of training"):
        evaluate_freedoom(pipeline, held_out, held_out, settings, FREEDOOM, "tiny")


@pytest.mark.slow
def test_the_command_measures_a_model_of_the_game(
    pipeline: StarFlowPipeline,
    held_out: Episodes,
    training: Episodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(networks, "NUM_STEPS", 3)
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 20)
    pipeline.save_pretrained(tmp_path / "model")
    options = ["--num-clips", "2", "--game-clips", "2", "--minutes", "0"]
    episodes = ["--data", held_out.path, "--training", training.path]
    command = ["evaluate", str(tmp_path / "model"), *episodes, "-o", str(tmp_path / "out"), *options]
    assert run(command) == 0
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert results["data"]["source"] == held_out.fingerprint
    settings = {"training": training.fingerprint, "game_clips": 2, "minutes": 0}
    assert settings.items() <= results["model"]["settings"].items()
    assert results["minute"] is None
    assert "| next frame: PSNR |" in (tmp_path / "out" / "table.md").read_text()
    assert "next frame: PSNR: " in capsys.readouterr().out
    assert run([*command, "--num-prompts", "3"]) == 2
    assert "leave out --num-prompts" in capsys.readouterr().err
