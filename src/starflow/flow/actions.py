"""The actions of a player: which ones exist, and how the flow reads them.

An action is a vector of `A` numbers: the choice of each component (discrete), or a value in the range of each component
(continuous). The flow reads **features**: one-hot vectors of choices, or values scaled to [-1, 1] and a one. Features
that are all zero mean that the action is not known. The embedding has no bias, so the flow is then the one without
actions.

Legend: `F` video frames, `T` latent frames, `A` components of an action, `E` features.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from starflow.errors import UsageError


@dataclass(frozen=True)
class ActionSpace:
    """The actions that a model knows.

    Attributes:
        sizes: of a discrete space: the number of choices of each component.
        low, high: of a continuous space: the range of each component.
        names: what a player does, for people: of each component the names of its choices, or of its lowest and its
            highest value. A choice with an empty name is that of a player who does nothing.
        keys: of a keyboard, one for each name: `KeyboardEvent.code` of browsers, such as `KeyA` or `ArrowLeft`.

    Names and keys are optional, and do not matter when spaces are compared.

    Raises:
        UsageError: the space is empty, or discrete and continuous at once, or a range is empty or not finite, or names
            or keys do not fit the components.
    """

    sizes: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    names: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    keys: tuple[tuple[str, ...], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in ("sizes", "low", "high"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if bool(self.sizes) == bool(self.low) or len(self.low) != len(self.high):
            raise UsageError(f"an action space has either sizes, or as many values of low as of high, not {self}")
        if any(not isinstance(size, int) or size < 1 for size in self.sizes):
            raise UsageError(f"the sizes of an action space must be whole numbers above 0, not {self.sizes}")
        if any(not (isfinite(low) and isfinite(high) and low < high) for low, high in self.ranges):
            raise UsageError(f"the ranges of an action space must be finite and not empty, not {self.ranges}")
        num_choices = [*self.sizes, *(2 for _ in self.low)]
        for name in ("names", "keys"):
            texts = tuple(tuple(map(str, each)) for each in getattr(self, name))
            object.__setattr__(self, name, texts)
            if texts and [len(each) for each in texts] != num_choices:
                raise UsageError(f"the {name} of an action space must be {num_choices} for its components, not {texts}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ActionSpace":
        """The space of `to_config`. Raises UsageError if a key is unknown."""
        if unknown := config.keys() - {each.name for each in fields(cls)}:
            known = "sizes, or low and high, and names and keys"
            raise UsageError(f"an action space has {known}, not {', '.join(sorted(unknown))}")
        return cls(**config)

    def to_config(self) -> dict[str, list[Any]]:
        """The space as JSON."""
        return {name: list(values) for name, values in asdict(self).items() if values}

    @property
    def is_discrete(self) -> bool:
        return bool(self.sizes)

    @property
    def num_components(self) -> int:
        """`A`."""
        return len(self.sizes or self.low)

    @property
    def num_features(self) -> int:
        """`E`."""
        return sum(self.sizes) if self.is_discrete else len(self.low) + 1

    def check(self, actions: Any, num_frames: int) -> Tensor:
        """Actions as a tensor `(num_frames, A)`. The dimension of `A` may be left out if `A` is 1.

        Raises UsageError if they have another shape, are not numbers or not finite, or are no actions of this space.
        """
        try:
            values = torch.as_tensor(np.asarray(actions, dtype=np.float64))
        except (TypeError, ValueError):
            raise UsageError(f"actions must be numbers, not {actions!r:.80}") from None
        shape = (num_frames, self.num_components)
        if self.num_components == 1 and values.shape == shape[:1]:
            values = values[:, None]
        if values.shape != shape:
            raise UsageError(f"actions must have the shape {shape}, not {tuple(values.shape)}")
        if not values.isfinite().all():
            raise UsageError("actions must be finite, and one is NaN or infinite")
        low, high = torch.tensor(self.ranges, dtype=torch.float64).T
        is_action = (values >= low) & (values <= high)
        if self.is_discrete:
            is_action &= values == values.round()
        if not is_action.all():
            frame, component = (~is_action).nonzero()[0].tolist()
            allowed = f"{low[component]:g} to {high[component]:g}"
            what = f"a whole number from {allowed}" if self.is_discrete else f"in {allowed}"
            raise UsageError(f"component {component} of an action must be {what}, not {values[frame, component]:g}")
        return values

    def features(self, actions: Tensor) -> Tensor:
        """Actions `(…, A)` → features `(…, E)`, float32."""
        if self.is_discrete:
            choices = actions.long().unbind(-1)
            return torch.cat(
                [F.one_hot(each, size) for each, size in zip(choices, self.sizes, strict=True)], -1
            ).float()
        low, high = torch.tensor(self.ranges, dtype=torch.float64).T
        scaled = (2 * actions.double() - low - high) / (high - low)
        return F.pad(scaled, (0, 1), value=1.0).float()

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """The lowest and the highest value of each component."""
        return [(0, size - 1) for size in self.sizes] or list(zip(self.low, self.high, strict=True))


def latent_features(features: Tensor, temporal_factor: int) -> Tensor:
    """Features of video frames `(F, E)` → of latent frames `(T, E)`: the mean over the frames of each.

    The action of a frame led to it from the frame before. The first frame has none, so its features become zero.
    """
    later = features[1:].unflatten(0, (-1, temporal_factor)).mean(dim=1)
    return torch.cat([torch.zeros_like(features[:1]), later])
