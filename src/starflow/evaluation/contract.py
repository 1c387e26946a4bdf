"""What measurements return, and how a source of clips brings measurements of its own.

Legend: `F` video frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starflow.media.frames import Frames


@dataclass(frozen=True)
class Card:
    """Clips that are shown together.

    Attributes:
        title: what the clips show.
        clips: each `(F, height, width, 3)`, by its label.
        marks: what the title says, piece by piece, and whether the clip shows it.
    """

    title: str
    clips: Mapping[str, Frames]
    marks: Sequence[tuple[str, bool]] = ()


@dataclass(frozen=True)
class Measured:
    """What a measurement returns: results for `evaluation.json`, and cards for the page."""

    results: dict[str, Any]
    cards: Sequence[Card]


@dataclass(frozen=True)
class Findings:
    """What a check returns.

    Attributes:
        results: the value under the check's name in `evaluation.json`; None if nothing was measured.
        section: sections of the page, as HTML.
        headlines: the most important results, each a label and a value, as HTML.
    """

    results: dict[str, Any] | None
    section: str = ""
    headlines: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Check:
    """A measurement that only one source of clips allows, for example because it knows what its clips show.

    Attributes:
        name: its key in `evaluation.json`.
        run: measures the model.
        settings: what it was asked for, added to the settings in `evaluation.json`.
    """

    name: str
    run: Callable[[], Findings]
    settings: Mapping[str, Any] = field(default_factory=dict)
