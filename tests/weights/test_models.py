"""Resolving the name of a model: bundled, a folder, a released model, or on the hub."""

import json
from pathlib import Path

import pytest

from released_checkpoint import ARGUMENTS, VIDEO, released_state, save, save_components, write_config
from starflow.convert import presets
from starflow.errors import StarflowError, UsageError
from starflow.weights import models
from starflow.weights.models import bundled_models, is_quantized, read_index, resolve_model


def test_bundled_models_and_folders_are_resolved(tmp_path: Path):
    assert "toyworld" in bundled_models()
    assert read_index(resolve_model("toyworld"))["_class_name"] == "StarFlowPipeline"
    (tmp_path / "model_index.json").write_text("{}")
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(StarflowError, match=r"model_index\.json is damaged"):
        read_index(str(tmp_path))


@pytest.mark.parametrize("name", ["toy", "./no/folder", "/no/folder", "a/b/c/d"])
def test_a_name_without_a_model_is_an_error(name: str):
    with pytest.raises(StarflowError, match=r"no model at .*: give a folder, a hub id"):
        resolve_model(name)


def test_a_folder_without_an_index_is_an_error(tmp_path: Path):
    with pytest.raises(StarflowError, match=r"it has no model_index\.json"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["owner/name", "starflow-3b", "apple/starflow/starflow_3B_t2i_256x256.pth"])
def test_offline_downloads_are_errors_and_leave_no_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STARFLOW_CACHE", str(tmp_path))
    with pytest.raises(StarflowError, match=r"cannot download .* offline mode is on"):
        resolve_model(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["toyworld", "starflow-v-7b"])
def test_models_that_are_not_quantized(name: str):
    assert not is_quantized(name)


@pytest.mark.parametrize("quantized", [None, "flow", "text_encoder"])
def test_a_model_is_quantized_if_one_of_its_parts_is(quantized: str | None, tmp_path: Path):
    for part in ("flow", "text_encoder", "vae"):
        config = {"quantization_config": {"quant_method": "torchao"}} if part == quantized else {}
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    index = {"flow": ["a", "A"], "denoiser": [None, None], "text_encoder": ["b", "B"], "vae": ["c", "C"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert is_quantized(str(tmp_path)) == (quantized is not None)


def test_a_repository_of_several_models_is_refused():
    with pytest.raises(UsageError, match="has several models: choose starflow-v-7b or starflow-3b"):
        resolve_model("apple/starflow")


@pytest.mark.parametrize("name", ["starflow-v-7b", "apple/starflow/starflow-v_7B_t2v_caus_480p_v3.pth"])
def test_a_released_model_is_downloaded_and_converted_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny = presets.released_model(write_config(tmp_path, VIDEO | save_components(tmp_path)))
    downloads = []

    def download(*wanted: str) -> Path:
        downloads.append(wanted)
        return save(released_state(ARGUMENTS), tmp_path)

    monkeypatch.setenv("STARFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "hub_file", download)
    monkeypatch.setattr(presets, "released_model", lambda _: tiny)
    folder = resolve_model(name)
    assert folder == str(tmp_path / "cache" / "starflow-v_7B_t2v_caus_480p_v3")
    assert read_index(folder)["noise_std"] == 0.5
    assert resolve_model(name) == folder
    assert downloads == [("apple/starflow", "starflow-v_7B_t2v_caus_480p_v3.pth")]


def test_the_index_of_a_model_on_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model_index.json").write_text('{"fps": 8}')
    monkeypatch.setattr(models, "hub_file", lambda repository, filename: tmp_path / filename)
    assert resolve_model("owner/name") == "owner/name"
    assert read_index("owner/name") == {"fps": 8}
