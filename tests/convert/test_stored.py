"""Weights in safetensors files, one or several."""

from pathlib import Path

import pytest
import torch

from starflow.convert.stored import open_safetensors, open_sharded, write_safetensors, write_sharded
from starflow.errors import StarflowError


def assert_equal(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {
        "half": torch.randn(3, 5).bfloat16(),
        "transposed": torch.randn(4, 6).t(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "small": torch.tensor([-0.0, 1e-42]),
    }


def test_a_file_is_read_as_it_was_written(tmp_path: Path):
    tensors = {
        "mask": torch.tensor([True, False]),
        "odd": torch.arange(7, dtype=torch.int8),
        "empty": torch.zeros(0, 3),
    }
    write_safetensors(tmp_path / "a.safetensors", tensors)
    assert_equal(open_safetensors(tmp_path / "a.safetensors"), tensors)


@pytest.mark.parametrize(("max_shard_bytes", "num_files"), [(1000, 1), (130, 2)])
def test_shards(max_shard_bytes: int, num_files: int, weights: dict[str, torch.Tensor], tmp_path: Path):
    assert write_sharded(tmp_path, weights, max_shard_bytes=max_shard_bytes) == num_files
    files = {file.name for file in tmp_path.iterdir()}
    if num_files == 1:
        assert files == {"diffusion_pytorch_model.safetensors"}
    else:
        assert files == {
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
        }
    assert_equal(open_sharded(tmp_path), weights)


def test_shards_are_counted_in_the_dtype_of_the_files(tmp_path: Path):
    weights = {str(index): torch.randn(25) for index in range(4)}
    (tmp_path / "wide").mkdir()
    (tmp_path / "narrow").mkdir()
    assert write_sharded(tmp_path / "wide", weights, max_shard_bytes=200) == 2
    assert write_sharded(tmp_path / "narrow", weights, torch.bfloat16, max_shard_bytes=200) == 1
    assert_equal(open_sharded(tmp_path / "narrow"), {name: tensor.bfloat16() for name, tensor in weights.items()})


def test_missing_and_damaged_weights(weights: dict[str, torch.Tensor], tmp_path: Path):
    with pytest.raises(StarflowError, match="there are no weights in"):
        open_sharded(tmp_path)
    write_sharded(tmp_path, weights)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StarflowError, match="cannot read"):
        open_sharded(tmp_path)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8, torch.float8_e4m3fn])
def test_weights_of_another_dtype_are_refused(dtype: torch.dtype, tmp_path: Path):
    with pytest.raises(StarflowError, match=rf"the weight w is of {dtype}: choose a precision with --dtype"):
        write_sharded(tmp_path, {"w": torch.zeros(3).to(dtype)})


def test_tensors_that_cannot_be_written(tmp_path: Path):
    tensor = torch.zeros(3)
    with pytest.raises(StarflowError, match=r"(?s)cannot write a\.safetensors: .*share memory"):
        write_safetensors(tmp_path / "a.safetensors", {"a": tensor, "b": tensor})
    with pytest.raises(StarflowError, match=r"cannot write a\.safetensors"):
        write_safetensors(tmp_path / "missing" / "a.safetensors", {"a": tensor})
