"""What a part of an evaluation hands back: numbers for `evaluation.json`, and clips for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starflow.evaluation.clips import Frames


@dataclass(frozen=True)
class Card:
    """Clips that are shown together: what they are of, and by its label each `(F, height, width, 3)`."""

    title: str
    clips: Mapping[str, Frames]


@dataclass(frozen=True)
class Measured:
    """Results for `evaluation.json`, and cards for the page."""

    results: dict[str, Any]
    cards: Sequence[Card]
