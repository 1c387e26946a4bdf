"""The picture of a benchmark of sampling."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from starflow.benchmark.sampling import STAGES, Row
from starflow.media.files import atomic_write


def draw(rows: Sequence[Row], path: Path) -> None:
    """Latency over length for each batch size, and where the seconds of a clip go; a PNG."""
    batch_sizes = sorted({row.batch_size for row in rows})
    figure = Figure(figsize=(4 * (len(batch_sizes) + 1), 3.8), layout="constrained")
    *latencies, stages = figure.subplots(1, len(batch_sizes) + 1)
    for axes, batch_size in zip(latencies, batch_sizes, strict=True):
        _draw_latency(axes, [row for row in rows if row.batch_size == batch_size])
        axes.set_title(f"{batch_size} at once")
    longest = max(row.num_frames for row in rows)
    _draw_stages(stages, [row for row in rows if (row.num_frames, row.batch_size) == (longest, batch_sizes[0])])
    stages.set_title(f"{longest} frames, {batch_sizes[0]} at once")
    figure.suptitle(rows[0].machine, fontsize="small", color="0.4")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_latency(axes: Axes, rows: Sequence[Row]) -> None:
    for sampler in dict.fromkeys(row.sampler for row in rows):
        points = [(row.num_frames, row.latency_s) for row in rows if row.sampler == sampler]
        axes.loglog(*zip(*points, strict=True), marker="o", label=sampler)
    playing = sorted({(row.num_frames, row.seconds_of_video) for row in rows})
    axes.loglog(*zip(*playing, strict=True), ":", color="0.5", label="as fast as it plays")
    axes.set_xticks([num_frames for num_frames, _ in playing], labels=[str(num_frames) for num_frames, _ in playing])
    axes.minorticks_off()
    axes.set_xlabel("frames")
    axes.set_ylabel("seconds from noise to latents")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def _draw_stages(axes: Axes, rows: Sequence[Row]) -> None:
    names = [row.sampler for row in rows]
    left = [0.0] * len(rows)
    for stage in STAGES:
        seconds = [row.stages_s[stage] for row in rows]
        axes.barh(names, seconds, left=left, label=stage)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds from prompt to file")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
