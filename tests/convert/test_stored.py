"""Writing safetensors tensor by tensor: the library must read what we wrote, in one file or in many."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from starflow.convert.stored import StoredTensor, open_safetensors, open_sharded, write_safetensors, write_sharded
from starflow.errors import StarflowError


def stored(tensors: dict[str, torch.Tensor]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(tuple(t.shape), t.dtype, lambda t=t: t) for name, t in tensors.items()}


def assert_equal(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        "flag": torch.tensor([True, False, True]),
        "half": torch.randn(3, 5).bfloat16(),
        "odd": torch.arange(7, dtype=torch.int8),
        "transposed": torch.randn(4, 6).t(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "nan": torch.tensor([-0.0, 1e-42]),
    }


def test_the_library_reads_what_is_written(tensors: dict[str, torch.Tensor], tmp_path: Path):
    write_safetensors(tmp_path / "a.safetensors", stored(tensors))
    assert_equal(load_file(tmp_path / "a.safetensors"), tensors)


def test_what_the_library_wrote_is_read(tensors: dict[str, torch.Tensor], tmp_path: Path):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    got = open_safetensors(tmp_path / "a.safetensors")
    assert {name: tensor.nbytes for name, tensor in got.items()} == {name: t.nbytes for name, t in tensors.items()}
    assert_equal({name: tensor.read() for name, tensor in got.items()}, tensors)


def test_cast_changes_the_dtype_as_it_reads(tensors: dict[str, torch.Tensor]):
    cast = stored(tensors)["transposed"].cast(torch.float16)
    assert (cast.dtype, cast.nbytes) == (torch.float16, 48)
    assert torch.equal(cast.read(), tensors["transposed"].half())


@pytest.mark.parametrize(("max_shard_bytes", "num_files"), [(1000, 1), (150, 2)])
def test_shards(max_shard_bytes: int, num_files: int, tensors: dict[str, torch.Tensor], tmp_path: Path):
    assert write_sharded(tmp_path, stored(tensors), max_shard_bytes) == num_files
    files = {file.name for file in tmp_path.iterdir()}
    if num_files == 1:
        assert files == {"diffusion_pytorch_model.safetensors"}
    else:
        assert files == {
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
        }
    assert_equal({name: tensor.read() for name, tensor in open_sharded(tmp_path).items()}, tensors)


def test_missing_and_damaged_weights(tensors: dict[str, torch.Tensor], tmp_path: Path):
    with pytest.raises(StarflowError, match="there are no weights in"):
        open_sharded(tmp_path)
    write_sharded(tmp_path, stored(tensors))
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StarflowError, match="cannot read"):
        open_sharded(tmp_path)


def test_a_dtype_that_cannot_be_stored(tmp_path: Path):
    with pytest.raises(StarflowError, match=r"c is of torch\.complex64"):
        write_safetensors(tmp_path / "a.safetensors", stored({"c": torch.zeros(1, dtype=torch.complex64)}))
