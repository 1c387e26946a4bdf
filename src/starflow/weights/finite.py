"""Checking that weights are finite."""

from torch import Tensor, nn

from starflow.errors import StarflowError


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor, which must not be empty, has neither NaN nor infinities.

    Unlike `torch.isfinite(tensor).all()` it allocates nothing, which matters for large weights in mapped files.
    """
    return all(extreme.isfinite().item() for extreme in tensor.aminmax())  # with a NaN, both extremes are NaN


def require_finite_weights(name: str, module: nn.Module) -> None:
    """Raise StarflowError if a weight of the part called `name` is missing or not finite."""
    for key, parameter in module.named_parameters():
        if parameter.is_meta:
            raise StarflowError(f"the weight {key} of the model's {name} is missing: the model is damaged")
        if not all(map(is_finite, _stored_values(parameter))):
            raise StarflowError(f"the weight {key} of the model's {name} is not finite: the model is damaged")


def _stored_values(parameter: Tensor) -> list[Tensor]:
    """The floating-point tensors of a weight: the weight itself, or the scales and values of a quantized weight."""
    if type(parameter.data) is Tensor:
        return [parameter]
    inner = [getattr(parameter, name) for name in parameter.__tensor_flatten__()[0]]  # type: ignore[attr-defined]
    return [values.float() for values in inner if values.is_floating_point()]
