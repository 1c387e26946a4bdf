"""Exponential moving average of weights."""

import copy
from collections.abc import Mapping

import torch
from torch import nn


def shadow_copy(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Copies that `update` moves towards the originals; without gradients, in evaluation mode."""
    return {name: copy.deepcopy(module).requires_grad_(False).eval() for name, module in modules.items()}


@torch.no_grad()
def update(shadows: Mapping[str, nn.Module], modules: Mapping[str, nn.Module], decay: float, step: int) -> None:
    """Move each shadow to ``decay * shadow + (1 - decay) * weights``; buffers are copied.

    The decay starts low, (1 + step) / (10 + step), so that the initial weights are soon forgotten.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for name, module in modules.items():
        shadow = shadows[name]
        torch._foreach_lerp_(list(shadow.parameters()), list(module.parameters()), weight)
        for mine, theirs in zip(shadow.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
