"""The pictures of the page."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from report import Run

GIB = 2**30


def draw_sweeps(run: "Run") -> Figure:
    """Milliseconds of a sweep of the video model's deep block over the tokens in its cache, measured and predicted."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for rows, style in ((run.rows("works"), "o-"), (run.predicted["works"], ":")):
        sweeps = [row for row in rows if (row["model"], row["block"], row["kind"]) == ("video", "deep", "sweep")]
        for index, window in enumerate(dict.fromkeys(row["tokens"] for row in sweeps)):
            points = [(row["cached"], row["ms"]) for row in sweeps if row["tokens"] == window]
            label = f"{window:,} at once" if style != ":" else None
            axes.plot(*zip(*points, strict=True), style, color=f"C{index}", label=label)
    axes.set_yscale("log")
    axes.set_xlabel("tokens in the cache")
    axes.set_ylabel("milliseconds of a sweep (dotted: predicted)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(title="tokens", frameon=False, fontsize="small", loc="outside right upper")
    return figure


def draw_memory(run: "Run") -> Figure:
    """Peak memory of every stage and way, measured and computed."""
    computed = {(row["way"], row["stage"]): row["weights"] + row["working"] for row in run.predicted["memory"]}
    measured = {(row["way"], row["stage"]): row["peak_bytes"] for row in run.rows("memory")}
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(computed))
    axes.barh(places - 0.2, [measured.get(key, 0) / GIB for key in computed], 0.4, label="measured")
    axes.barh(places + 0.2, [each / GIB for each in computed.values()], 0.4, label="computed by `starflow info`")
    axes.set_yticks(places, [f"{way}: {stage}" for way, stage in computed], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("GiB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
