"""Bringing a part of an offloaded pipeline to the device that it computes on.

The hooks of diffusers and accelerate move weights when a module is called. The flow, the denoiser's stream and the VAE
are used through other methods too, and those call `onload` first.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import nn

Item = TypeVar("Item")


def onload(module: nn.Module) -> None:
    """Bring a part of an offloaded pipeline to its device, as calling it would; does nothing for any other module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)


def onloaded(module: nn.Module, items: Iterable[Item]) -> Iterator[Item]:
    """The items, the module that makes them being brought to its device for each."""
    iterator = iter(items)
    while True:
        onload(module)
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item
