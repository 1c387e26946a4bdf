"""A flow that changes nothing, for tests."""

from copy import deepcopy

import torch

from starflow.flow.model import StarFlow


def identity_flow(flow: StarFlow) -> StarFlow:
    """A copy of the flow with zero output projections, as at the start of training: it is the identity."""
    flow = deepcopy(flow)
    for block in flow.blocks:
        torch.nn.init.zeros_(block.proj_out.weight)
        torch.nn.init.zeros_(block.proj_out.bias)
    return flow
