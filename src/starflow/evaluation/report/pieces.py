"""What the sections of an evaluation's page are made of, as HTML text."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from starflow.evaluation.clips import Frames
from starflow.evaluation.measured import Card
from starflow.evaluation.report.pictures import animation, strip
from starflow.toyworld.world.vocabulary import FPS

FRAMES_SHOWN = 5
COMPLIANCE_ROWS = {
    "color": "color",
    "shape": "shape",
    "size": "size, where the caption says it",
    "motion": "motion",
    "color_shape_motion": "color, shape and motion",
    "count": "number of objects",
    "background": "background, where the caption says it",
    "all": "everything that the caption says",
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells, which are HTML; without a header if that is empty."""
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    if header:
        lines.insert(0, f"<tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>\n"


def share_table(header: str, labels: Mapping[str, str], columns: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Proportions, by the keys of `labels`, of each of `columns`, by their titles; one that is None has dashes."""
    rows = [
        [label, *[share(column[key]) if column else "–" for column in columns.values()]]
        for key, label in labels.items()
    ]
    return table([header, *columns], rows)


def card_grid(texts: Sequence[str]) -> str:
    """Cards side by side, as many as fit."""
    return f'<div class="cards">\n{"".join(texts)}</div>\n'


def clip_cards(shown: Iterable[Card]) -> str:
    """Clips under their titles."""
    texts = []
    for each in shown:
        rows = "".join(clip_row(label, clip) for label, clip in each.clips.items())
        texts.append(f'<div class="card"><p>{escape(each.title)}</p>\n{rows}</div>\n')
    return card_grid(texts)


def clip_row(label: str, clip: Frames) -> str:
    """A clip `(F, height, width, 3)` as it plays, and five of its frames; a single frame as it is."""
    said = f'<span class="label">{label}</span>' if label else ""
    if len(clip) == 1:
        return f'<div class="row">{said}<img src="{strip(clip, 1)}" alt="the picture"></div>\n'
    return (
        f'<div class="row">{said}<img src="{animation(clip, FPS)}" alt="the clip">'
        f'<img src="{strip(clip, FRAMES_SHOWN)}" alt="five of its frames"></div>\n'
    )


def share(proportion: Mapping[str, Any]) -> str:
    """A proportion in percent, with its interval and counts."""
    if proportion["value"] is None:
        return "–"
    low, high = proportion["interval"]
    counted = f"{proportion['correct']} of {proportion['n']}"
    return f"{100 * proportion['value']:.1f}% <small>[{100 * low:.1f}, {100 * high:.1f}], {counted}</small>"


def mean(summary: Mapping[str, Any] | None, digits: int, unit: str) -> str:
    """A summary's mean with its standard error; a dash for None."""
    if summary is None:
        return "–"
    error = "" if summary["standard_error"] is None else f" <small>± {summary['standard_error']:.{digits}f}</small>"
    return f"{summary['mean']:.{digits}f}{error} {unit}"
