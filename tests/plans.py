"""Sampling in one call, for tests that need all latents and the report of the solvers."""

import torch
from torch import Tensor

from starflow.flow.model import StarFlow
from starflow.sampling.sampler import DEFAULT_SOLVERS, FrameCallback, Plan, SamplingReport
from starflow.sampling.sampler import sample as sample_in_pieces
from starflow.sampling.solvers import Solver, Solvers


def plan(noise: Tensor, text: Tensor, *guidance: object, solver: Solver | Solvers | None = None, **settings) -> Plan:
    """A plan; `guidance` is the embedded empty caption and the scale, one `solver` serves all blocks."""
    solvers = solver or DEFAULT_SOLVERS
    solvers = solvers if isinstance(solvers, Solvers) else Solvers(solvers, solvers)
    return Plan(noise, text, *guidance, solvers=solvers, **settings)


def sample(
    flow: StarFlow, noise: Tensor, text: Tensor, *guidance: object, on_frame: FrameCallback | None = None, **settings
) -> tuple[Tensor, SamplingReport]:
    """All latents `(B, T, D, H, W)` of a plan, and the report of the solvers."""
    planned = plan(noise, text, *guidance, **settings)
    return torch.cat(list(sample_in_pieces(flow, planned, on_frame=on_frame)), dim=1), planned.report
