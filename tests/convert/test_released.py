"""The released names and shapes: every parameter of both released configurations, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from released_checkpoint import ARGUMENTS, released_state, save
from starflow.convert.presets import PRESETS, released_model
from starflow.convert.released import (
    DENOISER_PREFIX,
    build,
    load_released,
    misfits,
    native_name,
    released_name,
    released_parameters,
    split_checkpoint,
)
from starflow.errors import StarflowError

RELEASED = json.loads((Path(__file__).parent / "released_parameters.json").read_text())
TOTALS = {"starflow-v-7b": 6_890_096_528, "starflow-3b": 3_858_281_544}
FILES = {"starflow-v-7b": "starflow-v_7B_t2v_caus_480p", "starflow-3b": "starflow_3B_t2i_256x256"}


def meta(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_exactly_the_released_parameters(preset: str):
    flow, denoiser = build(released_model(preset).arguments)
    released = RELEASED[FILES[preset]]
    assert {name: list(shape) for name, shape in released_parameters(flow, denoiser).items()} == released["parameters"]
    modules = [module for module in (flow, denoiser) if module is not None]
    total = sum(parameter.numel() for module in modules for parameter in module.parameters())
    assert total == TOTALS[preset] == released["total_parameters"]
    assert all(parameter.is_meta for module in modules for parameter in module.parameters())
    tensors = meta(released["parameters"] | released["ignorable_buffers"])
    assert misfits(flow, denoiser, tensors) == []
    parts = split_checkpoint(tensors)
    assert parts["flow"].keys() == dict(flow.named_parameters()).keys()
    assert parts["denoiser"].keys() == (set() if denoiser is None else dict(denoiser.named_parameters()).keys())
    assert parts["buffers"].keys() == released["ignorable_buffers"].keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_files_of_the_real_size_load(preset: str, tmp_path: Path):
    path = tmp_path / PRESETS[preset].filename
    released = RELEASED[FILES[preset]]
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):  # a sparse file
        shapes = released["parameters"] | released["ignorable_buffers"]
        torch.save({name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, path)
    assert path.stat().st_size > 2 * TOTALS[preset]
    flow, denoiser = load_released(released_model(preset).arguments, path)
    modules = [module for module in (flow, denoiser) if module is not None]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == TOTALS[preset]
    assert all(parameter.dtype == torch.bfloat16 and not parameter.is_meta for parameter in parameters)
    path.unlink()


@pytest.mark.parametrize("name", RELEASED)
def test_translating_names_to_native_and_back_is_the_identity(name: str):
    for key in RELEASED[name]["parameters"]:
        prefix = DENOISER_PREFIX if key.startswith(DENOISER_PREFIX) else ""
        assert released_name(native_name(key), prefix) == key


def test_invalid_widths_are_refused():
    with pytest.raises(StarflowError, match="no model has this configuration"):
        build({**ARGUMENTS, "channels": 30})


def test_a_checkpoint_loads_and_its_buffers_are_ignored(tmp_path: Path):
    state = released_state(ARGUMENTS)
    flow, denoiser = load_released(ARGUMENTS, save(state, tmp_path))
    assert denoiser is not None
    assert torch.equal(flow.deep.sos, state["blocks.2.sos_embed"])
    assert torch.equal(
        flow.blocks[0].transformer.layers[0].mlp.down.weight, state["blocks.0.attn_blocks.0.mlp.main.2.weight"]
    )
    assert torch.equal(denoiser.transformer.final_norm.weight, state["learnable_self_denoiser.final_norm.weight"])


def test_all_mismatches_are_listed_by_released_name(tmp_path: Path):
    state = released_state(ARGUMENTS)
    del state["blocks.0.sos_embed"], state["learnable_self_denoiser.proj_txt.bias"]
    state |= {name: torch.zeros(1) for name in ("blocks.1.extra", "feat_rope.other", "blocks.0.sos")}
    state["blocks.2.final_norm.weight"] = torch.zeros(7)
    with pytest.raises(StarflowError) as error:
        load_released(ARGUMENTS, save(state, tmp_path))
    assert str(error.value).endswith(
        "does not fit the configuration: blocks.2.final_norm.weight is (7,), expected (40,); "
        "missing blocks.0.sos_embed; missing learnable_self_denoiser.proj_txt.bias; "
        "unknown blocks.0.sos; unknown blocks.1.extra; unknown feat_rope.other"
    )


def test_a_long_list_of_mismatches_is_shortened(tmp_path: Path):
    with pytest.raises(StarflowError, match=r"expected \(40,\).*; and \d+ more$") as error:
        load_released({**ARGUMENTS, "channels": 40}, save(released_state(ARGUMENTS), tmp_path))
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("name", ["vars", "blocks.0.attn_masks", "blocks.x.attn_mask", "feat_rope.freqs_tan"])
def test_only_the_known_buffers_are_ignored(name: str):
    flow, denoiser = build(ARGUMENTS)
    tensors = meta({key: list(shape) for key, shape in released_parameters(flow, denoiser).items()})
    assert misfits(flow, denoiser, tensors | meta({"var": [1]})) == []
    assert misfits(flow, denoiser, tensors | meta({name: [1]})) == [f"unknown {name}"]


def test_a_denoiser_missing_from_the_configuration_is_an_error(tmp_path: Path):
    with pytest.raises(StarflowError, match=r"it has a denoiser, but the configuration does not$"):
        load_released({**ARGUMENTS, "learnable_self_denoiser": False}, save(released_state(ARGUMENTS), tmp_path))
