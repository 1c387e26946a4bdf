"""Released checkpoints: every name and shape of both released configurations, and errors that say what does not fit."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from starflow.convert.released import (
    DENOISER_PREFIX,
    build,
    denoiser_arguments,
    flow_arguments,
    load_released,
    load_strictly,
    native_name,
    released_name,
    split_state_dict,
)
from starflow.errors import StarflowError

RELEASED = json.loads((Path(__file__).parent / "released_parameters.json").read_text())

COMMON: dict[str, Any] = {
    "patch_size": 1,
    "rope": True,
    "sos": True,
    "cond_top_only": True,
    "use_softplus": True,
    "use_final_norm": True,
    "seq_order": "L2R",
    "soft_clip": 4,
    "channels": 3072,
    "num_blocks": 6,
    "layers_per_block": [2, 2, 2, 2, 2, 24],
    "head_dim": 64,
    "txt_dim": 2048,
}
CONFIGS = {
    "starflow-v_7B_t2v_caus_480p": {
        **COMMON,
        "in_channels": 48,
        "img_size": 40,
        "top_block_channels": 4096,
        "pt_seq_len": 32,
        "txt_size": 256,
        "shallow_block_local": True,
        "learnable_self_denoiser": True,
        "conditional_denoiser": True,
        "denoiser_window": 10,
        "temporal_causal": 2,
    },
    "starflow_3B_t2i_256x256": {**COMMON, "in_channels": 4, "img_size": 32, "pt_seq_len": None, "txt_size": 128},
}
TOTALS = {"starflow-v_7B_t2v_caus_480p": 6_890_096_528, "starflow_3B_t2i_256x256": 3_858_281_544}

TINY = {
    **COMMON,
    "in_channels": 2,
    "img_size": 4,
    "channels": 20,
    "num_blocks": 3,
    "layers_per_block": [1, 1, 2],
    "head_dim": 20,
    "txt_dim": 6,
    "learnable_self_denoiser": True,
    "conditional_denoiser": True,
    "denoiser_window": 3,
    "temporal_causal": 2,
}


def modules(config: dict[str, Any]) -> dict[str, nn.Module]:
    """Flow and denoiser by the prefix of their released names."""
    flow, denoiser = build(config)
    return {"": flow} if denoiser is None else {"": flow, DENOISER_PREFIX: denoiser}


def released_state(config: dict[str, Any]) -> dict[str, Tensor]:
    """A random state dict as a released checkpoint for `config` would be, buffers included."""
    state = {
        released_name(name, prefix): torch.randn(tensor.shape)
        for prefix, module in modules(config).items()
        for name, tensor in module.state_dict().items()
    }
    buffers = {"var": 2, "blocks.0.attn_mask": 3, "blocks.2.attn_mask": 3, "feat_rope.freqs_cos": 4}
    return state | {name: torch.zeros(size, size) for name, size in buffers.items()}


def saved(state: Any, folder: Path) -> Path:
    torch.save(state, folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize("name", RELEASED)
def test_released_configurations_have_exactly_the_released_parameters(name: str):
    with torch.device("meta"):
        parts = modules(CONFIGS[name])
        released = {key: torch.empty(shape) for key, shape in RELEASED[name]["parameters"].items()}
        buffers = {key: torch.empty(shape) for key, shape in RELEASED[name]["ignorable_buffers"].items()}
    own = {
        released_name(key, prefix): list(parameter.shape)
        for prefix, module in parts.items()
        for key, parameter in module.named_parameters()
    }
    assert own == RELEASED[name]["parameters"]
    total = sum(parameter.numel() for module in parts.values() for parameter in module.parameters())
    assert total == TOTALS[name] == RELEASED[name]["total_parameters"]
    states = split_state_dict(released | buffers)
    assert sum(map(len, states)) == len(released)
    for (prefix, module), state in zip(parts.items(), states, strict=False):
        load_strictly(module, state, "model", prefix)


def test_released_arguments_become_ours():
    video = CONFIGS["starflow-v_7B_t2v_caus_480p"]
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
    image = CONFIGS["starflow_3B_t2i_256x256"]
    assert flow_arguments(image)["deep_width"] == 3072
    assert flow_arguments(image)["position_length"] == 32
    assert denoiser_arguments(image) is None
    assert denoiser_arguments({**video, "conditional_denoiser": False})["text_width"] is None


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
    ],
)
def test_a_model_that_was_never_released_is_refused(argument: str, value: Any):
    with pytest.raises(StarflowError, match=f"{argument}={value!r}"):
        flow_arguments({**TINY, argument: value})


def test_layers_and_blocks_must_agree():
    with pytest.raises(StarflowError, match="lists 3 blocks, num_blocks says 4"):
        flow_arguments({**TINY, "num_blocks": 4})


def test_a_checkpoint_loads_and_its_buffers_are_ignored(tmp_path: Path):
    state = released_state(TINY)
    flow, denoiser = load_released(TINY, saved(state, tmp_path))
    assert denoiser is not None
    assert torch.equal(flow.deep.sos, state["blocks.2.sos_embed"])
    assert torch.equal(
        flow.blocks[0].transformer.layers[0].mlp.down.weight, state["blocks.0.attn_blocks.0.mlp.main.2.weight"]
    )
    assert torch.equal(denoiser.transformer.final_norm.weight, state["learnable_self_denoiser.final_norm.weight"])


def test_everything_that_does_not_fit_is_listed_by_its_released_name(tmp_path: Path):
    state = released_state(TINY)
    del state["blocks.0.sos_embed"], state["blocks.1.attn_blocks.0.mlp.main.0.bias"]
    state["blocks.1.extra"] = torch.zeros(1)
    state["feat_rope.other"] = torch.zeros(1)
    state["blocks.2.final_norm.weight"] = torch.zeros(7)
    with pytest.raises(StarflowError) as error:
        load_released(TINY, saved(state, tmp_path))
    assert str(error.value) == (
        "the checkpoint does not fit the flow: missing blocks.0.sos_embed; "
        "missing blocks.1.attn_blocks.0.mlp.main.0.bias; unknown blocks.1.extra; unknown feat_rope.other; "
        "blocks.2.final_norm.weight is (7,), expected (20,)"
    )


def test_what_does_not_fit_the_denoiser_is_listed(tmp_path: Path):
    state = released_state(TINY)
    del state["learnable_self_denoiser.proj_txt.bias"]
    with pytest.raises(StarflowError, match=r"the denoiser: missing learnable_self_denoiser\.proj_txt\.bias$"):
        load_released(TINY, saved(state, tmp_path))


def test_our_own_names_are_unknown_to_a_released_checkpoint(tmp_path: Path):
    state = released_state(TINY)
    state["blocks.0.sos"] = state["blocks.0.sos_embed"]
    with pytest.raises(StarflowError, match=r"unknown names: blocks\.0\.sos$"):
        load_released(TINY, saved(state, tmp_path))


@pytest.mark.parametrize("name", ["vars", "blocks.0.attn_masks", "blocks.x.attn_mask", "feat_rope.freqs_tan"])
def test_only_the_known_buffers_are_ignored(name: str):
    assert split_state_dict({"var": torch.zeros(1)}) == ({}, {})
    assert name in split_state_dict({name: torch.zeros(1)})[0]


def test_a_denoiser_that_the_configuration_lacks_is_an_error(tmp_path: Path):
    config = {**TINY, "learnable_self_denoiser": False}
    with pytest.raises(StarflowError, match="the checkpoint has a denoiser, the configuration has none"):
        load_released(config, saved(released_state(TINY), tmp_path))


class Payload:
    """What an attacker would put in a pickle: unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path):
    marker = tmp_path / "executed"
    path = saved({"blocks.0.sos_embed": Payload(marker)}, tmp_path)
    with pytest.raises(StarflowError, match=r"cannot read .* as a released checkpoint") as error:
        load_released(TINY, path)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # so the file was a real threat


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"a": 1})])
def test_another_file_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(StarflowError, match="cannot read"):
        load_released(TINY, path)
    with pytest.raises(StarflowError, match="cannot read"):
        load_released(TINY, tmp_path / "missing.pth")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}, {"model": {"blocks.0.sos_embed": torch.zeros(1)}}])
def test_anything_but_a_state_dict_is_refused(content: Any, tmp_path: Path):
    with pytest.raises(StarflowError, match="is not a state dict of tensors"):
        load_released(TINY, saved(content, tmp_path))
