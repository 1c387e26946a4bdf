"""The released names, shapes and arguments: every parameter of both released configurations, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from released_checkpoint import ARGUMENTS, released_state, save
from starflow.convert.presets import PRESETS, released_model
from starflow.convert.released import (
    DENOISER_PREFIX,
    build,
    denoiser_arguments,
    flow_arguments,
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


def test_released_arguments_become_ours():
    video = released_model("starflow-v-7b").arguments
    assert flow_arguments(video) == {
        "latent_channels": 48,
        "shallow_layers": [2, 2, 2, 2, 2],
        "deep_layers": 24,
        "shallow_width": 3072,
        "deep_width": 4096,
        "head_dim": 64,
        "text_width": 2048,
        "position_length": 32,
        "soft_clip": 4,
    }
    assert denoiser_arguments(video) == {
        "latent_channels": 48,
        "width": 3072,
        "num_layers": 8,
        "head_dim": 64,
        "text_width": 2048,
        "position_length": 32,
        "temporal_causal": 2,
        "window": 10,
    }
    image = released_model("starflow-3b").arguments
    assert flow_arguments(image)["deep_width"] == 3072
    assert flow_arguments(image)["position_length"] == 32
    assert denoiser_arguments(image) is None
    assert denoiser_arguments({**video, "conditional_denoiser": False})["text_width"] is None


@pytest.mark.parametrize("preset", PRESETS)
def test_files_of_the_real_size_load_without_being_read(preset: str, tmp_path: Path):
    path = tmp_path / PRESETS[preset].filename
    released = RELEASED[FILES[preset]]
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):  # a file full of holes
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
def test_names_go_there_and_back(name: str):
    for key in RELEASED[name]["parameters"]:
        prefix = DENOISER_PREFIX if key.startswith(DENOISER_PREFIX) else ""
        assert released_name(native_name(key), prefix) == key


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("patch_size", 2),
        ("rope", False),
        ("sos", False),
        ("cond_top_only", False),
        ("use_softplus", False),
        ("use_final_norm", False),
        ("seq_order", "R2L"),
        ("use_swiglu", True),
        ("norm_type", "rms_norm"),
        ("use_pretrained_lm", "gemma3_1b"),
        ("shallow_block_local", False),
    ],
)
def test_a_model_that_was_never_released_is_refused(argument: str, value: Any):
    with pytest.raises(StarflowError, match=f"{argument}={value!r}"):
        flow_arguments({**ARGUMENTS, argument: value})


@pytest.mark.parametrize("argument", ["in_channels", "channels", "layers_per_block", "txt_dim", "rope", "seq_order"])
def test_a_missing_argument_is_named(argument: str):
    given = {name: value for name, value in ARGUMENTS.items() if name != argument}
    with pytest.raises(StarflowError, match=f"does not give {argument}$"):
        flow_arguments(given)


def test_missing_arguments_of_the_denoiser_and_of_positions():
    for argument in ("denoiser_window", "temporal_causal"):
        with pytest.raises(StarflowError, match=f"does not give {argument}$"):
            denoiser_arguments({**ARGUMENTS, argument: None})
    with pytest.raises(StarflowError, match=r"does not give img_size$"):
        flow_arguments({**ARGUMENTS, "pt_seq_len": None, "img_size": None})


def test_an_unknown_argument_is_named_with_its_nearest():
    with pytest.raises(StarflowError, match=r"unknown argument chanels: did you mean channels\?$"):
        flow_arguments({**ARGUMENTS, "chanels": 3})


def test_layers_and_blocks_must_agree():
    with pytest.raises(StarflowError, match="lists 3 blocks, but num_blocks is 4"):
        flow_arguments({**ARGUMENTS, "num_blocks": 4})


def test_widths_that_make_no_model():
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


def test_everything_that_does_not_fit_is_listed_by_its_released_name(tmp_path: Path):
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


def test_of_many_problems_the_first_are_listed(tmp_path: Path):
    with pytest.raises(StarflowError, match=r"expected \(40,\).*; and \d+ more$") as error:
        load_released({**ARGUMENTS, "channels": 40}, save(released_state(ARGUMENTS), tmp_path))
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("name", ["vars", "blocks.0.attn_masks", "blocks.x.attn_mask", "feat_rope.freqs_tan"])
def test_only_the_known_buffers_are_ignored(name: str):
    flow, denoiser = build(ARGUMENTS)
    tensors = meta({key: list(shape) for key, shape in released_parameters(flow, denoiser).items()})
    assert misfits(flow, denoiser, tensors | meta({"var": [1]})) == []
    assert misfits(flow, denoiser, tensors | meta({name: [1]})) == [f"unknown {name}"]


def test_a_denoiser_that_the_configuration_lacks_is_an_error(tmp_path: Path):
    with pytest.raises(StarflowError, match=r"it has a denoiser, but the configuration does not$"):
        load_released({**ARGUMENTS, "learnable_self_denoiser": False}, save(released_state(ARGUMENTS), tmp_path))
