"""The sampler `published` is the released one: it makes the same samples."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plans import sample
from starflow.convert.released import load_released
from starflow.sampling.published import PublishedJacobi
from starflow.sampling.solvers import BlockJacobi

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["video_three_blocks", "video_7b_like", "image_3b_like"])
def test_the_published_rule_makes_the_released_sample(name: str):
    flow, _ = load_released(json.loads((GOLDEN / f"{name}.json").read_text())["config"], GOLDEN / f"{name}.pth")
    io = load_file(GOLDEN / f"{name}.io.safetensors")
    want, noise = io["sample.jacobi_cfg3.5_bs4_th1e-3"], io["in.noise"]
    noise = noise if noise.ndim == 5 else noise[:, None]
    got, report = sample(flow, noise, io["in.text"], io["in.null_text"], 3.5, solver=PublishedJacobi(4, 16))
    torch.testing.assert_close(got.reshape(want.shape), want, atol=1e-4, rtol=0)
    exact, _ = sample(flow, noise, io["in.text"], io["in.null_text"], 3.5, solver=BlockJacobi(4, 1e-6))
    assert (exact.reshape(want.shape) - want).abs().max() > 0.01
    assert report.deep.sweeps > 0
    assert not report.deep.converged
    assert "no residual was measured: the result is not certified" in str(report)
