"""The pieces of the sections of the page, as HTML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape, unescape
from typing import Any

from starflow.evaluation.contract import Card
from starflow.evaluation.report.pictures import animation, strip
from starflow.media.frames import Frames

FRAMES_SHOWN = 5


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are HTML. An empty header is left out."""
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    if header:
        lines.insert(0, f"<tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>\n"


def share_table(header: str, labels: Mapping[str, str], columns: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A table of proportions: a row for each key of `labels`, a column for each of `columns`; None is a dash."""
    rows = [
        [label, *[share(column[key]) if column else "–" for column in columns.values()]]
        for key, label in labels.items()
    ]
    return table([header, *columns], rows)


def clip_cards(cards: Iterable[Card], fps: float) -> str:
    """Cards of clips under their titles, in as many columns as fit."""
    texts = []
    for card in cards:
        rows = "".join(_clip_row(label, clip, fps) for label, clip in card.clips.items())
        marks = " &nbsp;".join(_mark(said, holds) for said, holds in card.marks)
        texts.append(f'<div class="card"><p>{escape(card.title)}</p>\n{rows}{f"<p>{marks}</p>" if marks else ""}</div>')
    return '<div class="cards">\n' + "\n".join(texts) + "\n</div>\n"


def share(proportion: Mapping[str, Any]) -> str:
    """A proportion in percent, with its interval and counts; a dash if it is unknown."""
    if proportion["value"] is None:
        return "–"
    low, high = proportion["interval"]
    counts = f"{proportion['correct']} of {proportion['n']}"
    return f"{100 * proportion['value']:.1f}% <small>[{100 * low:.1f}, {100 * high:.1f}], {counts}</small>"


def mean(summary: Mapping[str, Any] | None, digits: int, unit: str) -> str:
    """The mean of a summary with its standard error; a dash for None."""
    if summary is None:
        return "–"
    error = "" if summary["standard_error"] is None else f" <small>± {summary['standard_error']:.{digits}f}</small>"
    return f"{summary['mean']:.{digits}f}{error} {unit}"


def estimate(result: Mapping[str, Any] | None, spec: str, unit: str = "") -> str:
    """A value of `bootstrap` with its interval, in the format `spec`; a dash if it is unknown."""
    if result is None or result["value"] is None:
        return "–"
    interval = "" if result["interval"] is None else ", ".join(format(end, spec) for end in result["interval"])
    return f"{result['value']:{spec}}{unit and f' {unit}'}{interval and f' <small>[{interval}]</small>'}"


def plain(html: str) -> str:
    """The text of a piece of HTML, for a terminal."""
    return unescape(re.sub(r"<[^>]*>", "", html))


def _clip_row(label: str, clip: Frames, fps: float) -> str:
    """A clip that plays and some of its frames, or a picture."""
    label = f'<span class="label">{escape(label)}</span>' if label else ""
    if len(clip) == 1:
        return f'<div class="row">{label}<img src="{strip(clip, 1)}" alt="the picture"></div>\n'
    return (
        f'<div class="row">{label}<img src="{animation(clip, fps)}" alt="the clip">'
        f'<img src="{strip(clip, FRAMES_SHOWN)}" alt="{FRAMES_SHOWN} of its frames"></div>\n'
    )


def _mark(said: str, holds: bool) -> str:
    kind, sign = ("right", "✓") if holds else ("wrong", "✗")
    return f'<span class="{kind}">{escape(said)}&nbsp;{sign}</span>'
