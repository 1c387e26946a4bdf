"""Pictures as `data:` addresses, so that a page of them is one file.

Legend: `F` frames; a clip is uint8 `(F, height, width, 3)`.
"""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from starflow.evaluation.clips import Frames

GAP = 2  # pixels between the frames of a strip
WEBP_QUALITY = 90
DRIFT_SHARES = {
    "present": "an object is there",
    "alone": "one, and no other",
    "color": "its color is right",
    "shape": "its shape is right",
    "background": "the background stays",
}


def strip(clip: Frames, num_frames: int) -> str:
    """Evenly spaced frames of a clip side by side, from the first to the last: a PNG."""
    shown = clip[np.linspace(0, len(clip) - 1, num_frames).round().astype(int)]
    padded = np.pad(shown, [(0, 0), (0, 0), (0, GAP), (0, 0)], constant_values=255)
    image = Image.fromarray(np.concatenate(list(padded), axis=1)[:, :-GAP])
    return _address(image, "png", optimize=True)


def animation(clip: Frames, fps: float) -> str:
    """A clip that plays for ever: a WebP."""
    first, *others = [Image.fromarray(frame) for frame in clip]
    duration = round(1000 / fps)
    return _address(first, "webp", save_all=True, append_images=others, duration=duration, loop=0, quality=WEBP_QUALITY)


def motion_bars(generated: Mapping[str, Any], ceiling: Mapping[str, Any]) -> str:
    """Bars of the proportions `per_motion`, with their intervals, and the ceiling's as marks: an SVG."""
    motions = [motion for motion, each in generated.items() if each["n"]]
    values = np.array([generated[motion]["value"] for motion in motions])
    low, high = np.array([generated[motion]["interval"] for motion in motions]).T
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    # The rounding of an interval may leave its end on the wrong side of the value by 1e-17.
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
    return _svg(figure)


def drift_curves(generated: Mapping[str, Any], ceiling: Mapping[str, Any]) -> str:
    """Measurements of long videos over their seconds, with the ceiling dashed: an SVG."""
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
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return _encoded(buffer, "svg+xml")


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return _encoded(buffer, kind)


def _encoded(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
