"""Parts that a model names: where they are found, and what is said when they are not."""

from pathlib import Path

import pytest
import torch

from released_checkpoint import save_components
from starflow.errors import StarflowError, UsageError
from starflow.weights.components import (
    KNOWN_CONFIGS,
    Component,
    load_components,
    named_components,
    spatial_factor,
    text_width,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("components")
    save_components(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "source", "subfolder"),
    [
        ("google/flan-t5-xl", "google/flan-t5-xl", ""),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers/vae", "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "vae"),
        ("owner/name/a/b", "owner/name", "a/b"),
    ],
)
def test_names_on_the_hub(name: str, source: str, subfolder: str):
    component = Component.parse(name)
    assert component == Component(source, subfolder)
    assert not component.is_local
    assert str(component) == name


def test_folders_win_and_are_kept_whole(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    component = Component.parse(f"{folder.name}/vae")
    assert component == Component(str(folder / "vae"))
    assert component.is_local


@pytest.mark.parametrize("name", ["", "name", "./no/folder", "~/no/folder", "/no/folder", "owner/"])
def test_what_is_neither(name: str):
    with pytest.raises(UsageError, match="give a folder, or a hub id"):
        Component.parse(name)


def test_sizes_of_the_released_components_are_known_offline():
    vae, image_vae, text = (Component.parse(name).config() for name in KNOWN_CONFIGS)
    assert (spatial_factor(vae), spatial_factor(image_vae), text_width(text)) == (16, 8, 2048)
    with pytest.raises(StarflowError, match="neither an AutoencoderKLWan nor"):
        spatial_factor(text)
    with pytest.raises(StarflowError, match="not a T5"):
        text_width(vae)


def test_components_are_loaded_from_where_they_are(folder: Path):
    index = {"_components": {"vae": str(folder / "vae"), "text_encoder": str(folder / "text")}, "flow": ["a", "b"]}
    loaded = load_components(index, torch.bfloat16)
    assert loaded.keys() == {"vae", "text_encoder", "tokenizer"}
    assert loaded["vae"].dtype == loaded["text_encoder"].dtype == torch.bfloat16
    assert not loaded["text_encoder"].training
    assert load_components({"vae": ["diffusers", "AutoencoderKLWan"]}) == {}
    assert named_components(index)["vae"] == Component(str(folder / "vae"))


def test_components_that_cannot_be_loaded(folder: Path, tmp_path: Path):
    with pytest.raises(StarflowError, match=r"cannot load the text_encoder owner/name: .*run `hf download owner/name`"):
        load_components({"_components": {"text_encoder": "owner/name"}})
    with pytest.raises(StarflowError, match="cannot load the vae owner/name/vae: "):
        load_components({"_components": {"vae": "owner/name/vae"}})
    with pytest.raises(StarflowError, match=f"cannot load the vae {tmp_path}: "):
        load_components({"_components": {"vae": str(tmp_path)}})
    with pytest.raises(StarflowError, match=r"its config\.json is missing or damaged"):
        Component.parse(str(tmp_path)).config()
