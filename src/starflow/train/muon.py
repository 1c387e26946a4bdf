"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) and AdamW in one optimizer.

Muon replaces the momentum of a matrix by the nearest semi-orthogonal matrix, so that the update is equally large in all
directions. A convolution kernel is treated as a matrix (out channels, everything else). Small autoencoders need about
half as many steps as with AdamW. `torch.optim.Muon` accepts only 2-D parameters: kernels would have to be copied to 2-D
parameters and back, and the states of two optimizers merged, in as many lines as here.

The momentum of a sharded parameter is sharded like it. Each process gathers the whole matrix, orthogonalises it, and
keeps its shard of the result. So a step is that of one process, and costs an all-gather of the matrices in float32 and,
in every process, the whole of the Newton-Schulz iterations.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a quintic, steep at 0; it takes singular values to about [0.7, 1.2]
ITERATIONS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Roughly U Vᵀ of a (rows, columns) matrix U S Vᵀ, by Newton-Schulz iterations in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)


class Muon(torch.optim.AdamW):
    """AdamW, and Muon for the groups with ``"muon": True``, where betas[0] is the momentum.

    Muon's updates do not depend on the scale of the gradient. A usual learning rate is 0.02, more than for AdamW. The
    state of every parameter exists from the start, so that a checkpoint can be read into it.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups)
        for group in self.param_groups:
            names = ("momentum",) if group.get("muon", False) else ("exp_avg", "exp_avg_sq")
            for parameter in group["params"]:
                moments = {name: torch.zeros_like(parameter) for name in names}
                self.state[parameter] = {"step": torch.zeros(()), **moments}  # AdamW expects a step count

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            if group.get("muon", False):
                for parameter in group["params"]:
                    self._muon(parameter, group)
        super().step()  # skips Muon's parameters, whose gradients are None now

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        state["step"] += 1
        momentum = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - group["betas"][0])
        direction = parameter.grad.lerp(momentum, group["betas"][0])  # Nesterov momentum
        matrix = (direction.full_tensor() if isinstance(direction, DTensor) else direction).flatten(1)
        update = orthogonalise(matrix).view(parameter.shape)
        if isinstance(parameter, DTensor):
            update = distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)
        rows, columns = matrix.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        parameter.grad = None
