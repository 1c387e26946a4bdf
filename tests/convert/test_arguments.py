"""The released arguments as ours, and the arguments that are refused."""

import subprocess
import sys
from typing import Any

import pytest

from released_checkpoint import ARGUMENTS
from starflow.convert.arguments import denoiser_arguments, flow_arguments
from starflow.convert.presets import released_model
from starflow.errors import StarflowError


def test_presets_are_read_without_torch():
    code = "import sys, starflow.convert.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_released_arguments_are_translated():
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
def test_unsupported_arguments_are_refused(argument: str, value: Any):
    with pytest.raises(StarflowError, match=f"{argument}={value!r}"):
        flow_arguments({**ARGUMENTS, argument: value})


@pytest.mark.parametrize("argument", ["in_channels", "channels", "layers_per_block", "txt_dim", "rope", "seq_order"])
def test_a_missing_argument_is_named(argument: str):
    given = {name: value for name, value in ARGUMENTS.items() if name != argument}
    with pytest.raises(StarflowError, match=f"does not give {argument}$"):
        flow_arguments(given)


def test_missing_arguments_of_the_denoiser_and_of_positions_are_named():
    for argument in ("denoiser_window", "temporal_causal"):
        with pytest.raises(StarflowError, match=f"does not give {argument}$"):
            denoiser_arguments({**ARGUMENTS, argument: None})
    with pytest.raises(StarflowError, match=r"does not give img_size$"):
        flow_arguments({**ARGUMENTS, "pt_seq_len": None, "img_size": None})


def test_an_unknown_argument_gets_a_suggestion():
    with pytest.raises(StarflowError, match=r"unknown argument chanels: did you mean channels\?$"):
        flow_arguments({**ARGUMENTS, "chanels": 3})


def test_layers_that_do_not_match_the_number_of_blocks_are_refused():
    with pytest.raises(StarflowError, match="lists 3 blocks, but num_blocks is 4"):
        flow_arguments({**ARGUMENTS, "num_blocks": 4})
