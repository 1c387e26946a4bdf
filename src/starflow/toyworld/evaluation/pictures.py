"""The charts of toyworld's measurements, as SVG."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from starflow.evaluation.report.pictures import svg

DRIFT_SHARES = {
    "present": "an object is there",
    "alone": "one, and no other",
    "color": "its color is right",
    "shape": "its shape is right",
    "background": "the background stays",
}


def motion_bars(generated: Mapping[str, Any], ceiling: Mapping[str, Any]) -> str:
    """Bars of the proportions `per_motion` with their intervals, and the ceiling as marks."""
    motions = [motion for motion, each in generated.items() if each["n"]]
    values = np.array([generated[motion]["value"] for motion in motions])
    low, high = np.array([generated[motion]["interval"] for motion in motions]).T
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    # Rounding can put an end of an interval on the wrong side of the value by 1e-17.
    errors = np.maximum([values - low, high - values], 0)
    axes.bar(motions, values, color="#4878a8", yerr=errors, capsize=3, ecolor="#333333", label="generated")
    axes.plot(
        motions, [ceiling[motion]["value"] for motion in motions], "_", color="#c44e52", ms=22, mew=2, label="ceiling"
    )
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("motion is right")
    axes.set_xticks(range(len(motions)), [f"{motion}\n({generated[motion]['n']})" for motion in motions])
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return svg(figure)


def drift_curves(generated: Mapping[str, Any], ceiling: Mapping[str, Any]) -> str:
    """The measurements of long videos over the seconds, with the ceiling dashed."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    sharpness, shares = figure.subplots(1, 2, width_ratios=(2, 3))
    for column, style, width in ((generated, "-", 1.5), (ceiling, "--", 0.8)):
        means, errors = (
            np.array([each[key] or 0 if each else np.nan for each in column["sharpness"]])
            for key in ("mean", "standard_error")
        )
        seconds = np.arange(1, len(means) + 1)
        sharpness.plot(seconds, means, style, color="C0", lw=width)
        sharpness.fill_between(seconds, means - errors, means + errors, color="C0", alpha=0.2, linewidth=0)
        for number, (name, label) in enumerate(DRIFT_SHARES.items()):
            values = [np.nan if each["value"] is None else each["value"] for each in column[name]]
            shares.plot(seconds, values, style, color=f"C{number}", lw=width, label=label if style == "-" else None)
    sharpness.set_ylim(0)
    sharpness.set_ylabel("sharpness of the edges")
    shares.set_ylim(0, 1.03)
    shares.set_ylabel("share of the clips")
    figure.legend(loc="outside upper right", ncols=len(DRIFT_SHARES), frameon=False)
    for axes in (sharpness, shares):
        axes.set_xlabel("second of the video")
        axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)
