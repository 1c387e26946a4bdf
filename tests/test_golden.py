"""Comparison with every tensor stored from the released implementation, in tests/golden.

A case is `NAME.json` (the released constructor's arguments), `NAME.pth` (its state dict) and `NAME.io.safetensors`;
`STARFLOW_GOLDEN_DIR` names another folder of cases.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from plans import sample
from starflow.convert.released import load_released
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.loss import flow_loss
from starflow.flow.model import StarFlow
from starflow.sampling.sampler import RollingWindow
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import BlockJacobi, Solvers, sequential

TOLERANCE = 1e-4
FOLDERS = [Path(__file__).parent / "golden", *map(Path, filter(None, [os.environ.get("STARFLOW_GOLDEN_DIR")]))]
CASES = [path for folder in FOLDERS for path in sorted(folder.glob("*.json"))]
EXACT = BlockJacobi(block_size=64, tolerance=1e-6)
SOLVERS = {
    "sequential": sequential,
    "jacobi": EXACT,
    "sliding": Solvers(SlidingWindow(16, 1e-6), SlidingWindow(8, 1e-6)),
}

# Samples of the released Jacobi iteration at its default tolerance are inexact: our error must be smaller.
NOT_A_TARGET = re.compile(r"sample\.jacobi_cfg.*")


@dataclass
class Case:
    flow: StarFlow
    denoiser: CausalDenoiser | None
    io: dict[str, Tensor]

    def video(self, name: str) -> Tensor:
        """A tensor of latents as `(B, T, D, H, W)`; those of images get a frame dimension."""
        x = self.io[name]
        return x if x.ndim == 5 else x[:, None]

    def assert_equal(self, got: Tensor, name: str) -> None:
        """Equal up to `TOLERANCE` times the largest value, which float32 reaches even in ill-conditioned cases."""
        want = self.io[name]
        atol = TOLERANCE * want.abs().max().item()
        torch.testing.assert_close(got.reshape(want.shape), want, atol=atol, rtol=0)


@pytest.fixture(scope="module", params=CASES, ids=[path.stem for path in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    path: Path = request.param
    config = json.loads(path.read_text())["config"]
    flow, denoiser = load_released(config, path.with_suffix(".pth"))
    return Case(flow, denoiser, load_file(path.with_suffix(".io.safetensors")))


def sample_names(case: Case, pattern: str) -> list[tuple[str, re.Match[str]]]:
    return [(name, match) for name in case.io if (match := re.fullmatch(pattern, name))]


def test_every_stored_tensor_has_a_test(case: Case):
    known = (
        r"in\..*|forward\.(hidden|logdet)\.\d+|forward\.z|roundtrip\.x|loss\.(loss|z|logdet)|score\.input_grad_times_numel"
        r"|denoiser\.out|sample\.(sequential|jacobi_exact|(sequential|prefix\d+)_cfg[\d.]+|rolling_window\d+_context\d+_cfg[\d.]+)"
    )
    assert [name for name in case.io if not re.fullmatch(known, name) and not NOT_A_TARGET.fullmatch(name)] == []


@torch.no_grad()
def test_blocks(case: Case):
    hidden = case.video("in.x").permute(0, 1, 3, 4, 2)
    case.assert_equal(hidden, "forward.hidden.0")
    for index, output in enumerate(case.flow.run_blocks(hidden, case.io["in.text"])):
        case.assert_equal(output.hidden, f"forward.hidden.{index + 1}")
        case.assert_equal(case.flow.to_tokens(output.log_det, index), f"forward.logdet.{index}")


@torch.no_grad()
def test_noise_and_round_trip(case: Case):
    text = case.io["in.text"]
    z = case.flow.encode(case.video("in.x"), text).z
    case.assert_equal(z, "forward.z")
    x, _ = sample(case.flow, z, text, solver=sequential)
    case.assert_equal(x, "roundtrip.x")


def test_loss_and_score(case: Case):
    x = case.video("in.x").clone().requires_grad_()
    encoded = case.flow.encode(x, case.io["in.text"])
    loss = flow_loss(encoded)
    case.assert_equal(loss, "loss.loss")
    case.assert_equal(0.5 * encoded.z.square().mean(), "loss.z")
    case.assert_equal(-encoded.log_det.mean(), "loss.logdet")
    (grad,) = torch.autograd.grad(loss, x)
    case.assert_equal(grad * x.numel(), "score.input_grad_times_numel")


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_samples(case: Case, solver):
    names = ["sample.sequential", *(["sample.jacobi_exact"] if solver is EXACT else [])]
    x, _ = sample(case.flow, case.video("in.noise"), case.io["in.text"], solver=solver)
    for name in names:
        case.assert_equal(x, name)
    for name, match in sample_names(case, r"sample\.sequential_cfg([\d.]+)"):
        x, _ = sample(
            case.flow,
            case.video("in.noise"),
            case.io["in.text"],
            case.io["in.null_text"],
            float(match[1]),
            solver=solver,
        )
        case.assert_equal(x, name)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_prefix_samples(case: Case, solver):
    for name, match in sample_names(case, r"sample\.prefix(\d+)_cfg([\d.]+)"):
        x, _ = sample(
            case.flow,
            case.video("in.noise"),
            case.io["in.text"],
            case.io["in.null_text"],
            float(match[2]),
            prefix=case.video("in.x")[:, : int(match[1])],
            solver=solver,
        )
        case.assert_equal(x, name)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_rolling_window_samples(case: Case, solver):
    for name, match in sample_names(case, r"sample\.rolling_window(\d+)_context(\d+)_cfg([\d.]+)"):
        x, _ = sample(
            case.flow,
            case.video("in.noise8"),
            case.io["in.text"],
            case.io["in.null_text"],
            float(match[3]),
            rolling_window=RollingWindow(int(match[1]), int(match[2])),
            solver=solver,
        )
        case.assert_equal(x, name)


def test_the_default_sampler_is_more_accurate_than_the_released_one(case: Case):
    """The largest error against sequential sampling is below that of the released stopping rule."""
    for name, match in sample_names(case, r"sample\.jacobi_cfg([\d.]+)_bs\d+_th1e-3"):
        oracle = case.video(f"sample.sequential_cfg{match[1]}")
        x, report = sample(
            case.flow, case.video("in.noise"), case.io["in.text"], case.io["in.null_text"], float(match[1])
        )
        assert (x - oracle).abs().max() < (case.video(name) - oracle).abs().max()
        assert (report.deep + report.shallow).converged


@torch.no_grad()
def test_denoiser(case: Case):
    assert (case.denoiser is not None) == ("denoiser.out" in case.io)
    if case.denoiser is not None:
        case.assert_equal(case.denoiser(case.video("in.x"), case.io["in.text"]), "denoiser.out")
