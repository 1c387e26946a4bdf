"""Models on disk: diffusers' `save_pretrained` and `from_pretrained` with safetensors, dtype and the meta device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch import Tensor

from invertible_maps import CHANNELS, VIDEO, randn, random_text, tiny_denoiser, tiny_flow
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow

Model = StarFlow | CausalDenoiser


def output(model: Model, dtype: torch.dtype = torch.float32) -> Tensor:
    x = randn(1, VIDEO[0], CHANNELS, *VIDEO[1:], dtype=torch.float32)
    out = model(x, random_text(1, dtype=dtype))
    return out.z if isinstance(model, StarFlow) else out


def arguments(model: Model) -> dict[str, Any]:
    """The constructor's arguments, without the entries that diffusers adds."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


@pytest.fixture(params=[tiny_flow, tiny_denoiser], ids=["flow", "denoiser"])
def model(request: pytest.FixtureRequest) -> Model:
    make: Callable[..., Model] = request.param
    return make(dtype=torch.float32)


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_a_saved_model_loads_bit_for_bit(model: Model, tmp_path: Path, low_cpu_mem_usage: bool):
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = type(model).from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert arguments(loaded) == arguments(model)
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    saved, again = model.state_dict(), loaded.state_dict()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert torch.equal(output(loaded), output(model))


def test_a_model_loads_as_bfloat16(model: Model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].bfloat16())
    out = output(loaded)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, output(model), atol=0.5, rtol=0)


def test_a_sharded_folder_loads(model: Model, tmp_path: Path):
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(output(type(model).from_pretrained(tmp_path)), output(model))


def test_a_model_on_the_meta_device_takes_loaded_weights(model: Model):
    with init_empty_weights():
        empty = type(model).from_config(model.config)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(output(empty), output(model))


def test_a_truncated_file_is_an_error(model: Model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(OSError, match=r"diffusion_pytorch_model\.safetensors"):
        type(model).from_pretrained(tmp_path)


def test_weights_of_another_shape_are_an_error(model: Model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    assert f'"latent_channels": {CHANNELS}' in config
    (tmp_path / "config.json").write_text(config.replace('"latent_channels": 2', '"latent_channels": 3'))
    with pytest.raises((ValueError, RuntimeError), match="shape"):
        type(model).from_pretrained(tmp_path)
