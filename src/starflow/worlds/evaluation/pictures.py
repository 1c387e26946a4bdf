"""The charts of the measurements of a game, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from starflow.evaluation.report.pictures import svg


def rollout_curves(horizons: Sequence[int], columns: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The PSNR of each column over the frames after the context, with its interval."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for number, (label, values) in enumerate(columns.items()):
        _curve(axes, horizons, values, f"C{number}", label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(horizons, [str(each) for each in horizons])
    axes.set_xlabel("frames after the context")
    axes.set_ylabel("PSNR in dB")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def minute_curves(rollout: Mapping[str, Any], true: Mapping[str, Any]) -> str:
    """Sharpness and distance to training over the seconds; those of true frames are dashed."""
    titles = {"sharpness": "sharpness", "distance": "distance to the nearest training frame"}
    figure = Figure(figsize=(11, 3), layout="constrained")
    for number, (axes, (name, title)) in enumerate(zip(figure.subplots(1, 2), titles.items(), strict=True)):
        seconds = np.arange(1, len(rollout[name]) + 1)
        _curve(axes, seconds, rollout[name], f"C{number}", "rollouts")
        axes.axhline(true[name]["value"], ls="--", lw=0.8, color="black", label="true frames")
        axes.set_ylim(0)
        axes.set_xlabel("second of play")
        axes.set_ylabel(title)
        axes.legend(frameon=False, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _curve(axes: Axes, places: Any, values: Sequence[Mapping[str, Any]], color: str, label: str) -> None:
    known = [(place, each) for place, each in zip(places, values, strict=True) if each["value"] is not None]
    axes.plot([place for place, _ in known], [each["value"] for _, each in known], color=color, lw=1.5, label=label)
    if sure := [(place, *each["interval"]) for place, each in known if each["interval"]]:
        at, low, high = np.array(sure).T
        axes.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
