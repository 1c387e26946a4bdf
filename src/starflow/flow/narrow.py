"""Matrices that are stored in bfloat16 and widened for each product, for inference on a CPU.

A pass over few tokens takes as long as reading the weights from memory. Most models are stored in bfloat16. After they
are loaded in float32, half of the bits that are read are zeros. Matrices that bfloat16 holds exactly are kept in it
here. A product widens its matrix into the cache of the processor first, so its result is the same, to the last bit.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starflow.flow.transformer import Layer


class NarrowLinear(nn.Linear):
    """A linear layer with a matrix in bfloat16, which computes in the precision of its input. It cannot be trained."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias)


def narrow(model: nn.Module) -> None:
    """Store in bfloat16 the float32 matrices of a model's `Layer`s that it holds exactly; leave the others."""
    for parent, name, linear in _linears(model, nn.Linear):
        # A quantized or a shared weight is of another type.
        if type(linear.weight) is nn.Parameter and linear.weight.dtype == torch.float32:
            narrowed = NarrowLinear(linear)
            if torch.equal(narrowed.weight.float(), linear.weight):
                setattr(parent, name, narrowed)


def widen(model: nn.Module) -> None:
    """Store the matrices in float32 again, so that they can be changed."""
    for _, _, linear in _linears(model, NarrowLinear):
        linear.weight = nn.Parameter(linear.weight.float(), requires_grad=False)


def _linears(model: nn.Module, kind: type[nn.Linear]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Linear layers of exactly this type: the module that has it as a child, the child's name, and the child."""
    for layer in [module for module in model.modules() if isinstance(module, Layer)]:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is kind:
                    yield parent, name, child
