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


def drift_curves(generated: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """What `starflow.evaluation.drift` measures over the seconds of long videos, the reference dashed: an SVG."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    sharpness, shares = figure.subplots(1, 2, width_ratios=(2, 3))
    known = [(second, each) for second, each in enumerate(generated["sharpness"], start=1) if each]
    seconds, means = [second for second, _ in known], np.array([each["mean"] for _, each in known])
    errors = np.array([each["standard_error"] or 0 for _, each in known])
    sharpness.plot(seconds, means, color="C0")
    sharpness.fill_between(seconds, means - errors, means + errors, color="C0", alpha=0.25, linewidth=0)
    if reference["sharpness"]:
        sharpness.axhline(reference["sharpness"]["mean"], color="C0", ls="--", lw=1)
    sharpness.set_ylim(0)
    sharpness.set_ylabel("sharpness of the edges")
    for number, name in enumerate(DRIFT_SHARES):
        values = [np.nan if each["value"] is None else each["value"] for each in generated[name]]
        shares.plot(range(1, len(values) + 1), values, color=f"C{number}", label=DRIFT_SHARES[name])
        if reference[name]["value"] is not None:
            shares.axhline(reference[name]["value"], color=f"C{number}", ls="--", lw=0.7)
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
