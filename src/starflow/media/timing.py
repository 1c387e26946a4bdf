"""Frames with times, and frame rates: resampling a stream of frames, and finding the rate of a whole clip.

A clip of `F` frames at a rate `fps` lasts `(F - 1) / fps` seconds from its first to its last frame. Resampling keeps
this length to the nearest frame: 33 frames at 16 fps become 17 at 8 fps.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")

# A frame may be shown this share of an interval before its time, because time stamps are rounded and jitter.
EARLY = 0.3
# Frames per second: the highest whole rate that is tried on frames of uneven durations.
FASTEST_GUESS = 60


class Timed(NamedTuple, Generic[Item]):
    """Something shown from `time` until `end`, in seconds since the first frame; equal if the duration is unknown."""

    time: float
    end: float
    item: Item


def at_rate(frames: Iterable[Timed[Item]], fps: float) -> Iterator[Timed[Item]]:
    """Resample a stream of frames to the times `k / fps`: the frame shown at each of these times.

    The number of frames is `1 + last·fps`, rounded to the nearest, and down from a half. `last` is the time of the last
    frame. If that frame is shown longer than the shortest other one, it counts as several of that length.
    """
    held: Timed[Item] | None = None
    shortest = math.inf
    count = 0
    for frame in frames:
        if held is not None:
            interval = frame.time - held.time
            shortest = min(shortest, interval)
            early = EARLY * min(interval, 1 / fps)
            while count / fps < frame.time - early:
                yield Timed(count / fps, (count + 1) / fps, held.item)
                count += 1
        held = frame
    if held is None:
        return
    last = max(held.time, held.end - (1 / fps if shortest == math.inf else shortest))
    for index in range(count, 1 + math.ceil(last * fps - 0.51)):
        yield Timed(index / fps, (index + 1) / fps, held.item)


def from_time(frames: Iterable[Timed[Item]], start: float) -> Iterator[Timed[Item]]:
    """The stream from `start` on, in seconds: what is shown at `start` comes first, and times count from there."""
    held: Timed[Item] | None = None
    for frame in frames:
        if held is not None and frame.time - EARLY * (frame.time - held.time) > start:
            yield Timed(max(0.0, held.time - start), frame.time - start, held.item)
        held = frame
    if held is not None:
        yield Timed(max(0.0, held.time - start), max(0.0, held.end - start), held.item)


def constant_rate(frames: Sequence[Timed[Item]], tick: float, stated: float = 0) -> tuple[list[Item], float]:
    """The frames at a constant rate, and this rate.

    Formats round times (to `tick` seconds) and merge equal frames, which are repeated here. The rate is the first
    candidate, the `stated` rate, the mean rate or a whole number, on whose grid every frame ends. If there is none, the
    frames are resampled to their usual rate.
    """
    starts = [frame.time for frame in frames]
    intervals = sorted(b - a for a, b in pairwise(starts))
    end = frames[-1].end
    if end == starts[-1] and intervals:  # unknown
        end += starts[-1] - starts[-2]
    ends = [*starts[1:], end]
    mean_rate = len(frames) / end
    candidates = [stated, float(round(mean_rate)), mean_rate] if intervals else []
    for fps in [*filter(None, candidates), *map(float, range(1, FASTEST_GUESS + 1))]:
        repeats = _repeats_on_grid(ends, fps, tick)
        if repeats is not None:
            return [frame.item for frame, repeat in zip(frames, repeats, strict=True) for _ in range(repeat)], fps
    fps = mean_rate
    if intervals and abs(mean_rate * median(intervals) - 1) > 0.1:  # more than jitter: the rate changes, or holds
        fps = 1 / intervals[len(intervals) // 4]
    if abs(fps - round(fps)) < 0.01 * fps:
        fps = float(round(fps))
    return [frame.item for frame in at_rate(frames, fps)], fps


def _repeats_on_grid(ends: Sequence[float], fps: float, tick: float) -> list[int] | None:
    """How often each frame is shown at a rate; None if a frame does not end on the rate's grid, but for rounding."""
    ticks = [round(end * fps) for end in ends]
    repeats = [b - a for a, b in pairwise([0, *ticks])]
    errors = [abs(end - number / fps) for end, number in zip(ends, ticks, strict=True)]
    return repeats if max(errors) <= 0.51 * tick and min(repeats) > 0 else None
