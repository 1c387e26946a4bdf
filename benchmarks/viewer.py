"""What the viewer of a stream sees: the wait for the first chunk, the gaps between chunks, and stops of the player."""

from collections.abc import Sequence
from typing import Any

import numpy as np

DELAYS = (0.0, 0.5, 1.0)  # of a player, after the first chunk


def viewed(chunks: Sequence[tuple[float, int]], fps: float) -> dict[str, Any]:
    """What the viewer of a stream sees."""
    times, frames = np.array([time for time, _ in chunks]), np.array([frames for _, frames in chunks])
    gaps = np.diff(times)
    row = {
        "first_chunk_s": float(times[0]),
        "gap_p50_s": float(np.percentile(gaps, 50)),
        "gap_p95_s": float(np.percentile(gaps, 95)),
        "real_time_factor": float((times[-1]) / (frames.sum() / fps)),
    }
    return row | {f"stops_after_{delay:g}_s": underruns(times, frames, fps, delay) for delay in DELAYS}


def underruns(times: np.ndarray, frames: np.ndarray, fps: float, delay: float) -> int:
    """How often a player that begins `delay` seconds after the first chunk has to wait for the next one."""
    stops, ends = 0, times[0] + delay  # when the frames received so far have been shown
    for time_of_chunk, num_frames in zip(times, frames, strict=True):
        if time_of_chunk > ends:
            stops, ends = stops + 1, time_of_chunk
        ends += num_frames / fps
    return stops
