"""The page as one HTML file, which needs no network and no script."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from starflow.evaluation.report.pieces import table

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem 1.6rem .2rem 0; text-align: left; vertical-align: top; font-variant-numeric: tabular-nums }
th { font-weight: 600; border-bottom: 1px solid #ccc }
small, .quiet { color: #666; font-size: .85em }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(38rem, 1fr)); gap: 1.4rem 2rem }
.card p { margin: 0 0 .2rem }
.row { display: flex; gap: 8px; align-items: center; margin: .2rem 0 }
.row img { height: 80px; min-width: 0; object-fit: contain }
.label { width: 6.5rem; flex: none; color: #666; font-size: .85em }
.right { color: #1a7f37 }
.wrong { color: #c0262d; font-weight: 600 }
"""


def render_page(results: Mapping[str, Any], headlines: Sequence[tuple[str, str]], sections: Iterable[str]) -> str:
    """The page as HTML.

    Args:
        results: the contents of `evaluation.json`.
        headlines: rows of the table at the top, as HTML.
        sections: the measurements, as HTML.
    """
    model = results["model"]
    name = escape(model["name"])
    body = [_heading(model), _in_short(headlines), *sections, _data(results["data"]), _settings(model)]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Evaluation of {name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{''.join(body)}</body>\n</html>\n"
    )


def _heading(model: Mapping[str, Any]) -> str:
    machine = model["machine"]
    return (
        f"<h1>Evaluation of {escape(model['name'])}</h1>\n"
        f'<p class="quiet">{model["date"]}; {model["parameters"]["total"] / 1e6:.2f} million parameters; '
        f"{model['seconds']['total']:.0f} s on {escape(str(machine['gpu'] or machine['cpu']))}, "
        f"{machine['threads']} threads</p>\n"
    )


def _in_short(headlines: Sequence[tuple[str, str]]) -> str:
    note = '<p class="quiet">± is the standard error; brackets are 95% intervals.</p>\n'
    return f"<h2>In short</h2>\n{table([], headlines)}{note}"


def _data(data: Mapping[str, Any]) -> str:
    left_out = "".join(f"<li>{escape(reason)}</li>\n" for reason in data["left_out"])
    return f"<h2>Clips</h2>\n<p>{escape(data['source'])}</p>\n" + (f"<ul>\n{left_out}</ul>\n" if left_out else "")


def _settings(model: Mapping[str, Any]) -> str:
    rows = [
        [f"{group}: {key}", escape(f"{value:,}" if isinstance(value, int) else str(value))]
        for group in ("parameters", "settings", "machine", "seconds")
        for key, value in model[group].items()
    ]
    return "<h2>Model, settings, machine</h2>\n" + table([], rows)
