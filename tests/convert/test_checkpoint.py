"""Reading checkpoints: prefixes, sharded models, and files that are damaged, foreign or hostile."""

import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from released_checkpoint import save
from starflow.convert.checkpoint import open_checkpoint
from starflow.errors import StarflowError


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {"blocks.0.sos_embed": torch.randn(1, 1, 4), "blocks.0.proj_in.weight": torch.randn(6, 4).bfloat16()}


@pytest.fixture
def process_group(tmp_path: Path):
    """A process group of one process, which is needed to make sharded tensors."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def assert_reads(path: Path, state: dict[str, torch.Tensor]) -> None:
    tensors = open_checkpoint(path)
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])


def test_a_state_dict(state: dict[str, torch.Tensor], tmp_path: Path):
    assert_reads(save(state, tmp_path), state)


@pytest.mark.parametrize(
    "wrapped", ["module.{}", "module.module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_fsdp_wrapped_module.{}"]
)
def test_prefixes_of_wrappers_are_taken_off(wrapped: str, state: dict[str, torch.Tensor], tmp_path: Path):
    assert_reads(save({wrapped.format(name): tensor for name, tensor in state.items()}, tmp_path), state)


def test_wrappers_within_a_name(tmp_path: Path):
    tensor = torch.randn(3)
    path = save({"blocks.0._fsdp_wrapped_module.attn_blocks.1._checkpoint_wrapped_module.x": tensor}, tmp_path)
    assert_reads(path, {"blocks.0.attn_blocks.1.x": tensor})


def test_whole_dtensors(process_group: None, state: dict[str, torch.Tensor], tmp_path: Path):
    mesh = init_device_mesh("cpu", (1,))
    placements = {"blocks.0.sos_embed": Replicate(), "blocks.0.proj_in.weight": Shard(0)}
    path = save({name: distribute_tensor(t, mesh, [placements[name]]) for name, t in state.items()}, tmp_path)
    torch.distributed.destroy_process_group()  # a reader has none
    assert_reads(path, state)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'again'}", rank=0, world_size=1)


def test_a_part_of_a_dtensor_is_refused(process_group: None, state: dict[str, torch.Tensor], tmp_path: Path):
    from torch.distributed.tensor import DTensor

    part = DTensor.from_local(torch.randn(3, 4), init_device_mesh("cpu", (1,)), [Shard(0)], shape=(6, 4), stride=(4, 1))
    with pytest.raises(StarflowError, match=r"holds \(3, 4\) of the \(6, 4\) of w: it is one rank's part"):
        open_checkpoint(save({"w": part}, tmp_path))


def test_a_folder_of_distributed_checkpoint_names_the_command(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "dcp"
    dcp.save({f"module.{name}": tensor for name, tensor in state.items()}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(StarflowError, match=r"you trust its origin .*: python -m ") as error:
        open_checkpoint(folder)
    command = str(error.value).partition("python -m ")[2].split()
    assert command == ["torch.distributed.checkpoint.format_utils", "dcp_to_torch", str(folder), "model.pth"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_module(command[0], run_name="__main__")
    assert_reads(tmp_path / "model.pth", state)


class Payload:
    """What an attacker would put into a pickle: unpickling it creates a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path):
    marker = tmp_path / "executed"
    path = save({"blocks.0.sos_embed": Payload(marker)}, tmp_path)
    with pytest.raises(StarflowError, match=r"holds code \(\S+\), which was not run") as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # so the file was a real threat


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"a": 1})])
def test_another_file_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(StarflowError, match=r"cannot read .* as a released checkpoint: .*torch\.save did not write it"):
        open_checkpoint(path)


def test_a_truncated_file_is_refused(state: dict[str, torch.Tensor], tmp_path: Path):
    path = save(state, tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(StarflowError, match="it is truncated"):
        open_checkpoint(path)


def test_a_file_of_an_old_torch_is_refused(state: dict[str, torch.Tensor], tmp_path: Path):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(StarflowError, match=r"before torch 1\.6"):
        open_checkpoint(tmp_path / "old.pth")


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], {"epoch": 3}, {"model": {"blocks.0.sos_embed": torch.zeros(1)}}, {}]
)
def test_anything_but_a_state_dict_is_refused(content: Any, tmp_path: Path):
    with pytest.raises(StarflowError, match="is not a state dict of tensors"):
        open_checkpoint(save(content, tmp_path))


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(StarflowError, match="there is no such file"):
        open_checkpoint(tmp_path / "model.pth")
