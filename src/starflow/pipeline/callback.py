"""The protocol of `callback_on_step_end` in diffusers; a step is a latent frame that the deep block has finished."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from starflow.errors import UsageError
from starflow.sampling.solvers import require_finite

TENSOR_INPUTS = ["latents"]


def check_tensor_inputs(names: Sequence[str] | None) -> None:
    """Raise UsageError if a callback asks for tensors other than `latents`."""
    if names is not None and list(names) != TENSOR_INPUTS:
        raise UsageError(f"callback_on_step_end_tensor_inputs must be {TENSOR_INPUTS}, not {names!r}")


def replace_frame(u: Tensor, returned: Any) -> None:
    """Replace the frame `u` in place by the `latents` that a callback returned. None changes nothing.

    Raises:
        UsageError: the callback returned something else, or latents of another shape.
        StarflowError: the latents are not finite.
    """
    if returned is None:
        return
    if not isinstance(returned, Mapping) or not returned.keys() <= {*TENSOR_INPUTS}:
        raise UsageError(f'callback_on_step_end must return None or {{"latents": …}}, not {returned!r:.80}')
    latents = returned.get("latents", u)
    if latents is u:
        return
    if not isinstance(latents, Tensor) or latents.shape != u.shape:
        raise UsageError(f"latents of callback_on_step_end must be a tensor of the shape {tuple(u.shape)}")
    u.copy_(require_finite(latents, "the latents of callback_on_step_end"))
