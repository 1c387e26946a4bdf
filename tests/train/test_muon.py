import pytest
import torch
from torch import nn

from starflow.train.config import OptimizerConfig
from starflow.train.muon import Muon, orthogonalise
from starflow.train.state import parameter_groups


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (40, 8)])
def test_orthogonalise_keeps_singular_vectors_and_evens_out_singular_values(shape):
    rank = min(shape)
    u = torch.linalg.qr(torch.randn(shape[0], rank, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(shape[1], rank, dtype=torch.float64)).Q
    matrix = u @ torch.diag(torch.logspace(0, -1, rank, dtype=torch.float64)) @ v.T
    core = u.T @ orthogonalise(7 * matrix) @ v
    sizes = core.diagonal()
    assert sizes.min() > 0.65
    assert sizes.max() < 1.25
    torch.testing.assert_close(core, torch.diag(sizes), rtol=0, atol=0.03)  # bfloat16


def test_hidden_matrices_are_in_the_muon_group_and_other_parameters_in_the_adamw_group():
    module = nn.Sequential()
    module.add_module("conv_in", nn.Conv3d(3, 8, 3))
    module.add_module("middle", nn.Conv3d(8, 8, 3))
    module.add_module("norm", nn.LayerNorm(8))
    config = OptimizerConfig(lr=0.1, muon_lr=0.02, clip_norm=3.0)
    adamw, muon = parameter_groups("vae", module, config, not_muon=("conv_in",))
    assert [len(adamw["params"]), len(muon["params"])] == [5, 1]
    assert muon["params"][0] is module.middle.weight
    assert (adamw["name"], adamw["lr"], adamw["clip_norm"]) == ("vae", 0.1, 3.0)
    assert (muon["name"], muon["lr"]) == ("vae.muon", 0.02)
    assert len(parameter_groups("vae", module, OptimizerConfig())) == 1


def test_groups_without_muon_are_updated_by_adamw():
    start = torch.randn(4, 4)
    results = []
    for optimizer_class, extra in ((Muon, {"muon": False}), (torch.optim.AdamW, {})):
        weight = nn.Parameter(start.clone())
        optimizer = optimizer_class([{"params": [weight], "lr": 0.01, **extra}])
        for _ in range(3):
            weight.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(weight.detach())
    torch.testing.assert_close(*results)


def test_muon_solves_a_badly_conditioned_problem():
    scales = torch.logspace(0, -2, 16)
    target = torch.randn(16, 16)
    weight = nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([{"params": [weight], "lr": 0.1, "muon": True, "weight_decay": 0.0, "betas": (0.9, 0.0)}])
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        ((weight - target) * scales).square().sum().backward()
        optimizer.step()
        assert weight.grad is None
    assert ((weight - target) * scales).abs().max() < 0.05
