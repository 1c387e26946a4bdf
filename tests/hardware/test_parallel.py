"""A model shared by several processes: what it computes is what it computes in one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from processes import run_processes
from shared_work import computed, num_heads, parts, shapes, share_and_compute
from starflow.errors import UsageError
from starflow.hardware.parallel import check_heads, share_of


@pytest.mark.parametrize("size", [2, 4])
def test_a_shared_model_computes_the_same_in_the_shares_that_were_planned(size: int, tmp_path: Path):
    assert run_processes(size, share_and_compute, tmp_path, log=tmp_path) == [0] * size
    want = computed(*parts())
    got = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(size)]
    for name, tensor in want.items():
        assert tensor.std() > 0.1
        torch.testing.assert_close(got[0][name], tensor, atol=1e-9, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        assert all(torch.equal(each[name], got[0][name]) for each in got)  # or they would part ways
    planned = share_of(parts()[0].to("meta"), size)
    assert torch.load(tmp_path / "1.pth") == [shapes(planned), num_heads(planned)]
    assert num_heads(planned) == {4 // size, 8 // size}


def test_heads_that_cannot_be_shared():
    flow, denoiser = parts()
    check_heads(flow, 4)
    with pytest.raises(
        UsageError, match=r"^3 processes .* have 4 and 8 attention heads; the number of processes can be 1, 2, 4$"
    ):
        check_heads(flow, 3)
    with pytest.raises(UsageError, match="have 4 attention heads"):
        share_of(denoiser, 8)
