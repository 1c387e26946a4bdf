"""Muon: momentum whose matrices are orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon), with AdamW.

Matrices and convolution kernels, taken as (out channels, everything else), move by the semi-orthogonal matrix nearest
to their momentum, so that all directions advance alike; on small autoencoders it needs about half of AdamW's steps.
torch's own `torch.optim.Muon` takes no convolutions.
"""

from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a quintic with a steep start: singular values end in [0.7, 1.2]
ITERATIONS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """The semi-orthogonal factor of a (rows, columns) matrix, by Newton-Schulz steps in bfloat16: roughly U Vᵀ."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)


class Muon(torch.optim.AdamW):
    """AdamW, except in the groups that say ``"muon": True``: those move by Muon (their betas[0] is its momentum).

    Muon ignores the gradient's scale, so that its learning rate (about 0.02 for weights of ordinary size) has another
    meaning than AdamW's.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the weights along the gradients they hold."""
        for group in self.param_groups:
            if group.get("muon", False):
                for parameter in group["params"]:
                    self._muon(parameter, group)
        super().step()  # leaves alone what has no gradient

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:
            state.update(
                {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
            )  # AdamW expects a step count
        state["step"] += 1
        momentum = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - group["betas"][0])
        direction = parameter.grad.lerp(momentum, group["betas"][0])  # Nesterov's
        update = orthogonalise(direction.flatten(1))
        rows, columns = update.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        parameter.grad = None
