"""Plots of how much a clip surprises the flow: over the video, and per latent frame.

Legend: `F` video frames, `T` latent frames, `H W` latent rows and columns. A clip is uint8 `(F, height, width, 3)`,
RGB; surprise is the negative log-likelihood of each token in nats, `(T, H, W)`.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from starflow.media.files import SOFTWARE, atomic_write
from starflow.media.frames import Frames, from_unit
from starflow.media.video import write_video

Surprise = NDArray[np.float64]

COLORS = colormaps["inferno"]
STRENGTH = 0.65  # opacity of the colors over the video
DPI = 100
MAX_THUMBNAILS = 8


def latent_frames(num_frames: int, temporal_factor: int) -> NDArray[np.int64]:
    """The latent frame of each video frame, `(F,)`: the first has one video frame, the others `temporal_factor`."""
    return (np.arange(num_frames) + temporal_factor - 1) // temporal_factor


def overlay(clip: Frames, surprise: Surprise, temporal_factor: int, scale: Normalize) -> Frames:
    """The clip in gray, with the surprise of each token drawn over its pixels."""
    height, width = clip.shape[1:3]
    spread = surprise[latent_frames(len(clip), temporal_factor)]
    spread = spread.repeat(height // surprise.shape[1], axis=1).repeat(width // surprise.shape[2], axis=2)
    colors = COLORS(scale(spread))[..., :3]
    gray = clip.mean(axis=-1, keepdims=True) / 255
    return from_unit(STRENGTH * colors + (1 - STRENGTH) * gray)


def write_heatmap(path: Path, clip: Frames, fps: float, surprise: Surprise, temporal_factor: int, title: str) -> Path:
    """Write a video of the clip, its overlay and the color scale, above a plot of the surprise of each latent frame.

    Returns:
        The path written, as `starflow.media.video.write_video` does.
    """
    scale = Normalize(surprise.min(), surprise.max())
    heat = overlay(clip, surprise, temporal_factor, scale)
    figure = Figure(figsize=(8, 6), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=[3, 1])
    panels = [figure.add_subplot(grid[0, column]) for column in range(2)]
    images = [panel.imshow(frames[0]) for panel, frames in zip(panels, (clip, heat), strict=True)]
    for panel in panels:
        panel.set_axis_off()
    figure.colorbar(ScalarMappable(scale, COLORS), ax=panels, label="surprise of a token (nats)")
    curve = figure.add_subplot(grid[1, :])
    _plot(curve, surprise, temporal_factor, fps)
    cursor = curve.axvline(0, color="black")
    figure.suptitle(title, fontsize=10, wrap=True)

    drawn = []
    for index in range(len(clip)):
        for image, frames in zip(images, (clip, heat), strict=True):
            image.set_data(frames[index])
        cursor.set_xdata([(index + 0.5) / fps] * 2)
        canvas.draw()
        figure.set_layout_engine("none")  # lay out once: it is slow, and panels must not move
        drawn.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return write_video(path, np.stack(drawn), fps, {"software": SOFTWARE})


def write_plot(path: Path, clip: Frames, fps: float, surprise: Surprise, temporal_factor: int, title: str) -> None:
    """Write a PNG that plots the surprise of each latent frame, below thumbnails of the clip and its overlay."""
    heat = overlay(clip, surprise, temporal_factor, Normalize(surprise.min(), surprise.max()))
    shown = np.unique(np.linspace(0, len(surprise) - 1, MAX_THUMBNAILS).round().astype(int))
    figure = Figure(figsize=(8, 5), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(3, len(shown), height_ratios=[1, 1, 1.6])
    for column, index in enumerate(shown):
        for row, frames in enumerate((clip, heat)):
            panel = figure.add_subplot(grid[row, column])
            panel.imshow(frames[index * temporal_factor])  # the last video frame of the latent frame
            panel.set_axis_off()
    _plot(figure.add_subplot(grid[2, :]), surprise, temporal_factor, fps)
    figure.suptitle(title, fontsize=10, wrap=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Comment": json.dumps({"software": SOFTWARE})})


def _plot(axes: Axes, surprise: Surprise, temporal_factor: int, fps: float) -> None:
    """Plot a bar per latent frame: the mean surprise of its tokens, over the time that it spans."""
    ends = (np.arange(len(surprise)) * temporal_factor + 1) / fps
    starts = np.concatenate([[0], ends[:-1]])
    axes.bar(starts, surprise.mean(axis=(1, 2)), ends - starts, align="edge", color="#4878a8", edgecolor="white")
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xlim(0, ends[-1])
    axes.set_xlabel("time (s)")
    axes.set_ylabel("surprise\n(nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
