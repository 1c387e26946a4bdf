"""Converting and exporting: without loss, in little memory, and with clear errors."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from released_checkpoint import ARGUMENTS, IMAGE, VIDEO, released_state, save, save_components, write_config
from starflow.convert import convert as convert_module
from starflow.convert.convert import convert, export
from starflow.convert.presets import ReleasedModel, released_model
from starflow.errors import StarflowError, UsageError
from starflow.flow.actions import ActionSpace
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.weights.components import load_components
from starflow.weights.models import read_index
from tiny_pipeline import playable_pipeline


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_components(tmp_path_factory.mktemp("components"))


@pytest.fixture
def model(components: dict[str, str], tmp_path: Path) -> ReleasedModel:
    return released_model(write_config(tmp_path, VIDEO | components))


def load(folder: Path) -> StarFlowPipeline:
    index = read_index(str(folder))
    pipeline = StarFlowPipeline.from_pretrained(folder, **load_components(index, torch.float32))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_identical(path: Path, state: dict[str, torch.Tensor]) -> None:
    exported = torch.load(path, weights_only=True)
    assert exported.keys() == state.keys()
    for name, tensor in state.items():
        assert exported[name].dtype == tensor.dtype
        assert torch.equal(exported[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_export_restores_the_checkpoint_bit_for_bit(
    dtype: torch.dtype, max_shard_bytes: int, model: ReleasedModel, tmp_path: Path
):
    state = {name: tensor.to(dtype) for name, tensor in released_state(ARGUMENTS).items()}
    written = convert(save(state, tmp_path), model, tmp_path / "model", max_shard_bytes=max_shard_bytes)
    assert written.num_files == 2 if max_shard_bytes > 10**6 else written.num_files > 4
    assert written.num_bytes == written.num_parameters * dtype.itemsize
    export(tmp_path / "model", tmp_path / "again.pth")
    assert_identical(tmp_path / "again.pth", state)
    assert (tmp_path / "again.pth").stat().st_size < 1.1 * (tmp_path / "model.pth").stat().st_size


def test_buffers_that_share_memory_are_exported(model: ReleasedModel, tmp_path: Path):
    state = released_state(ARGUMENTS)
    state["blocks.2.attn_mask"] = state["blocks.0.attn_mask"]
    convert(save(state, tmp_path), model, tmp_path / "model")
    export(tmp_path / "model", tmp_path / "again.pth")
    assert_identical(tmp_path / "again.pth", state)


def test_a_converted_model_generates_videos_and_can_be_saved_whole(model: ReleasedModel, tmp_path: Path):
    state = released_state(ARGUMENTS)
    convert(save(state, tmp_path), model, tmp_path / "model")
    pipeline = load(tmp_path / "model")
    assert torch.equal(pipeline.flow.deep.sos, state["blocks.2.sos_embed"])
    frames = pipeline("a cat", generator=torch.Generator().manual_seed(0), output_type="pt").frames
    assert frames.shape == (1, 9, 3, 32, 48)
    pipeline.save_pretrained(tmp_path / "whole")  # with VAE and text encoder in it
    assert "_components" not in read_index(str(tmp_path / "whole"))
    again = StarFlowPipeline.from_pretrained(tmp_path / "whole")
    assert torch.equal(again("a cat", generator=torch.Generator().manual_seed(0), output_type="pt").frames, frames)
    export(tmp_path / "whole", tmp_path / "again.pth")
    buffers = load_file(tmp_path / "model" / "released_buffers.safetensors").keys()
    assert_identical(tmp_path / "again.pth", {name: state[name] for name in state.keys() - buffers})


def test_a_converted_image_model_generates_images_without_a_denoiser(components: dict[str, str], tmp_path: Path):
    model = released_model(write_config(tmp_path, IMAGE | components))
    convert(save(released_state(dict(model.arguments)), tmp_path), model, tmp_path / "model")
    pipeline = load(tmp_path / "model")
    assert pipeline.denoiser is None
    assert pipeline("a cat", output_type="pt").frames.shape == (1, 1, 3, 32, 32)
    export(tmp_path / "model", tmp_path / "again.pth")
    assert_identical(tmp_path / "again.pth", torch.load(tmp_path / "model.pth", weights_only=True))


def test_the_converted_folder_has_an_index_and_weights(model: ReleasedModel, tmp_path: Path):
    convert(save(released_state(ARGUMENTS), tmp_path), model, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "StarFlowPipeline"
    assert index["_components"] == {"vae": str(model.vae), "text_encoder": str(model.text_encoder)}
    assert index["flow"] == ["starflow.flow.model", "StarFlow"]
    assert index["noise_std"] == 0.5
    assert index["caption_has_aspect_ratio"] is True
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "model_index.json",
        "flow",
        "denoiser",
        "released_buffers.safetensors",
    }


def test_weights_are_cast_and_buffers_are_not(model: ReleasedModel, tmp_path: Path):
    state = released_state(ARGUMENTS)
    convert(save(state, tmp_path), model, tmp_path / "model", torch.bfloat16)
    weights = load_file(tmp_path / "model" / "flow" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(weights["blocks.2.sos"], state["blocks.2.sos_embed"].bfloat16())
    buffers = load_file(tmp_path / "model" / "released_buffers.safetensors")
    assert torch.equal(buffers["var"], state["var"])


def peak_anonymous_memory(work: Callable[[], Any]) -> int:
    """The peak of the process's anonymous memory (`RssAnon`) in bytes during the work, above that before it."""

    def anonymous() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])

    done, samples, before = threading.Event(), [0], anonymous()

    def watch() -> None:
        while not done.wait(0.001):
            samples.append(anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(samples)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux reports anonymous memory")
def test_conversion_holds_at_most_one_shard_in_memory_and_none_without_a_cast(
    components: dict[str, str], tmp_path: Path
):
    arguments = {**VIDEO, **components, "channels": 240, "top_block_channels": 480, "layers_per_block": "1 1 6"}
    model = released_model(write_config(tmp_path, arguments))
    state = released_state(dict(model.arguments))
    total = sum(tensor.nbytes for tensor in state.values())
    path = save(state, tmp_path)
    del state
    convert(path, model, tmp_path / "warm")  # so that imports and caches do not count
    shard, margin = 8_000_000, 4_000_000
    assert total > 8 * shard
    assert peak_anonymous_memory(lambda: convert(path, model, tmp_path / "same")) < margin
    cast = peak_anonymous_memory(lambda: convert(path, model, tmp_path / "cast", torch.bfloat16, shard))
    assert cast < shard + margin
    assert peak_anonymous_memory(lambda: export(tmp_path / "same", tmp_path / "again.pth")) < margin


def test_a_checkpoint_of_another_model_names_the_preset_that_fits(
    model: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = save(released_state(ARGUMENTS), tmp_path)
    wrong = released_model("starflow-3b")
    with pytest.raises(StarflowError, match=r"norm.bias is \(20,\), expected \(3072,\).*; and \d+ more$"):
        convert(path, wrong, tmp_path / "model")
    monkeypatch.setattr(convert_module, "released_model", lambda _: model)
    with pytest.raises(StarflowError, match=r"It fits starflow-v-7b: convert it with --config starflow-v-7b$"):
        convert(path, wrong, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_too_little_disk_space_is_an_error_before_writing(
    model: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = save(released_state(ARGUMENTS), tmp_path)
    convert(path, model, tmp_path / "model")
    usage = convert_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StarflowError, match=r"not enough disk space for .*: it needs .* GB, and .* has only 0.0 GB"):
        convert(path, model, tmp_path / "new" / "model")
    assert not (tmp_path / "new").exists()
    with pytest.raises(StarflowError, match="not enough disk space"):
        export(tmp_path / "model", tmp_path / "again.pth")
    assert not (tmp_path / "again.pth").exists()


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), None), (float("inf"), None), (1e6, torch.float16)])
def test_weights_that_are_not_finite_are_an_error(
    value: float, dtype: torch.dtype | None, model: ReleasedModel, tmp_path: Path
):
    state = released_state(ARGUMENTS)
    state["blocks.1.proj_in.bias"][3] = value
    with pytest.raises(StarflowError, match=r"the weight blocks.1.proj_in.bias is not finite"):
        convert(save(state, tmp_path), model, tmp_path / "model", dtype)
    assert not (tmp_path / "model").exists()


def test_an_existing_folder_is_overwritten_only_if_empty(model: ReleasedModel, tmp_path: Path):
    path = save(released_state(ARGUMENTS), tmp_path)
    with pytest.raises(UsageError, match="exists: remove it"):
        convert(path, model, tmp_path)
    assert path.exists()
    (tmp_path / "empty").mkdir()
    convert(path, model, tmp_path / "empty")


def test_exporting_a_folder_without_a_model_is_an_error(tmp_path: Path):
    with pytest.raises(StarflowError, match="does not hold a model"):
        export(tmp_path, tmp_path / "model.pth")


def test_a_model_with_actions_is_not_exported(tmp_path: Path):
    playable_pipeline(ActionSpace(sizes=(3,))).save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="takes actions, which released checkpoints do not have"):
        export(tmp_path / "model", tmp_path / "model.pth")
    assert not (tmp_path / "model.pth").exists()


def test_the_license_of_released_weights_is_in_the_folder(model: ReleasedModel, tmp_path: Path):
    checkpoint = save(released_state(dict(model.arguments)), tmp_path)
    convert(checkpoint, model, tmp_path / "without")
    assert not (tmp_path / "without" / "README.md").exists()
    convert(checkpoint, replace(model, license=released_model("starflow-v-7b").license), tmp_path / "with")
    assert "non-commercial research only" in (tmp_path / "with" / "README.md").read_text()
