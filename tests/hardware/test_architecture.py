"""Models read from their configuration files alone."""

import json
from pathlib import Path

import pytest
import torch

from released_checkpoint import ARGUMENTS, VIDEO, released_state, save, save_components, write_config
from starflow.convert.convert import convert
from starflow.convert.presets import released_model
from starflow.errors import StarflowError
from starflow.hardware.architecture import load_architecture
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.weights import models
from tiny_pipeline import tiny_pipeline


def shapes(parts: dict) -> dict:
    return {name: {key: tensor.shape for key, tensor in part.state_dict().items()} for name, part in parts.items()}


def parts_of(pipeline: StarFlowPipeline) -> dict:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_pipeline(noise_std=0.25).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder(folder: Path):
    architecture = load_architecture(str(folder))
    assert all(tensor.is_meta for part in architecture.parts.values() for tensor in part.parameters())
    assert shapes(architecture.parts) == shapes(parts_of(StarFlowPipeline.from_pretrained(folder)))
    assert architecture.settings["noise_std"] == 0.25


def test_a_folder_that_names_its_parts(tmp_path: Path):
    model = released_model(write_config(tmp_path, VIDEO | save_components(tmp_path)))
    convert(save(released_state(ARGUMENTS), tmp_path), model, tmp_path / "model")
    architecture = load_architecture(str(tmp_path / "model"))
    assert architecture.parts.keys() == {"text_encoder", "flow", "denoiser", "vae"}
    assert architecture.settings["later_frame_scale"] == 0.6


def test_released_models_need_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STARFLOW_CACHE", str(tmp_path))
    video = load_architecture("starflow-v-7b")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in video.parts.items()}
    assert count["flow"] + count["denoiser"] == 6_890_096_528
    image = load_architecture("apple/starflow/starflow_3B_t2i_256x256.pth")
    assert image.parts.keys() == {"text_encoder", "flow", "vae"}
    assert list(tmp_path.iterdir()) == []


def test_a_model_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def from_folder(repository: str, filename: str) -> Path:
        asked.append(filename)
        return folder / filename

    monkeypatch.setattr(models, "hub_file", from_folder)
    monkeypatch.setattr("starflow.weights.components.hub_file", from_folder)
    assert shapes(load_architecture("owner/name").parts) == shapes(load_architecture(str(folder)).parts)
    assert all(name.endswith(".json") for name in asked)


def test_damaged_models(folder: Path):
    (folder / "vae" / "config.json").write_text("{")
    with pytest.raises(StarflowError, match=r"no model in .*/vae: its config\.json is missing or damaged"):
        load_architecture(str(folder))
    index = json.loads((folder / "model_index.json").read_text())
    del index["vae"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(StarflowError, match="it lacks the flow, the VAE or the text encoder"):
        load_architecture(str(folder))
