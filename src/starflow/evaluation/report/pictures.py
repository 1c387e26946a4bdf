"""Pictures as `data:` addresses, so that the page is one file.

Legend: `F` frames; a clip is uint8 `(F, height, width, 3)`.
"""

import base64
import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from starflow.media.frames import Frames

GAP = 2  # pixels between the frames of a strip
MAX_HEIGHT = 160  # pixels; larger frames are scaled down
WEBP_QUALITY = 90


def strip(clip: Frames, num_frames: int) -> str:
    """Evenly spaced frames of a clip side by side, from the first to the last, as PNG."""
    shown = clip[np.linspace(0, len(clip) - 1, num_frames).round().astype(int)]
    small = np.stack([np.asarray(_small_image(frame)) for frame in shown])
    padded = np.pad(small, [(0, 0), (0, 0), (0, GAP), (0, 0)], constant_values=255)
    image = Image.fromarray(np.concatenate(list(padded), axis=1)[:, :-GAP])
    return _address(image, "png", optimize=True)


def animation(clip: Frames, fps: float) -> str:
    """A clip that plays in a loop, as WebP."""
    first, *others = [_small_image(frame) for frame in clip]
    duration = round(1000 / fps)
    return _address(first, "webp", save_all=True, append_images=others, duration=duration, loop=0, quality=WEBP_QUALITY)


def svg(figure: Figure) -> str:
    """A figure as SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return _encoded(buffer, "svg+xml")


def _small_image(frame: Frames) -> Image.Image:
    image = Image.fromarray(frame)
    image.thumbnail((image.width, MAX_HEIGHT))
    return image


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return _encoded(buffer, kind)


def _encoded(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
