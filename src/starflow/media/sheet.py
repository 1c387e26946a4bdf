"""Contact sheets: frames of many clips side by side."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from starflow.errors import UsageError
from starflow.media.files import SOFTWARE, atomic_write
from starflow.media.frames import Frames
from starflow.media.labels import LABEL_HEIGHT, label
from starflow.media.writing import png_text

COLUMNS = 6
TILE_GAP, BLOCK_GAP, MIN_TILE_HEIGHT = 2, 12, 96  # pixels


def contact_sheet(
    clips: Frames | Sequence[Frames],
    path: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
    columns: int = COLUMNS,
) -> None:
    """Write a PNG with a strip per clip, of `columns` evenly spaced frames from first to last.

    The strips stand below each other, and also beside each other where the sheet would become higher than wide.

    Args:
        clips: one clip (F, height, width, 3) or several, uint8, RGB. Small frames are enlarged by a whole factor.
        path: a `.png` file.
        labels: one line of text above each strip; a longer text is cut off.
        columns: the number of frames in a strip; a shorter clip shows all its frames.

    Raises:
        UsageError: the path is not a PNG file.
    """
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"a contact sheet is a PNG file: name it .png, not {os.fspath(path)}")
    if isinstance(clips, np.ndarray) and clips.ndim == 4:
        clips = [clips]
    strips = [_strip(clip, columns) for clip in clips]
    label_height = 0 if labels is None else LABEL_HEIGHT
    width = max(strip.width for strip in strips)
    height = max(strip.height for strip in strips) + label_height + TILE_GAP
    rows, strips_per_row = _grid(len(strips), width + BLOCK_GAP, height)
    sheet = Image.new("RGB", (strips_per_row * (width + BLOCK_GAP) - BLOCK_GAP, rows * height), "white")
    for index, strip in enumerate(strips):
        column, row = divmod(index, rows)
        corner = column * (width + BLOCK_GAP), row * height
        if labels is not None:
            sheet.paste(label(labels[index], width), corner)
        sheet.paste(strip, (corner[0], corner[1] + label_height))
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=png_text(json.dumps({"software": SOFTWARE})))


def _grid(num_strips: int, width: int, height: int) -> tuple[int, int]:
    """Rows and columns of blocks of a size in pixels, so that the whole is about as wide as high, but not higher."""
    columns = min(num_strips, max(1, math.ceil(math.sqrt(num_strips * height / width))))
    rows = math.ceil(num_strips / columns)
    return rows, math.ceil(num_strips / rows)


def _strip(clip: Frames, columns: int) -> Image.Image:
    shown = np.unique(np.linspace(0, len(clip) - 1, columns).round().astype(int))
    scale = math.ceil(MIN_TILE_HEIGHT / clip.shape[1])
    tiles = clip[shown].repeat(scale, axis=1).repeat(scale, axis=2)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (0, TILE_GAP), (0, 0)], constant_values=255)
    return Image.fromarray(np.concatenate(list(tiles), axis=1)[:, :-TILE_GAP])
