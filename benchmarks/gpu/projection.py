"""Seconds of a clip of the released video model, put together from the milliseconds of its parts.

How many evaluations a token takes depends on the weights, and is an assumption here: 1 is token by token, the others
are spread evenly over the clip, in the width of window that is then fastest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from works import CLIP_FRAME_TOKENS, CLIP_FRAMES

EVALUATIONS = (1, 2, 4, 6)  # for each token
SHALLOW_BLOCKS = 5

Rows = Sequence[dict[str, Any]]


def project(works: Rows, stages: Rows) -> list[dict[str, Any]]:
    """Seconds of each stage for each of `EVALUATIONS`; `works` and `stages` are rows of the video model's results.

    Raises LookupError if a part was not measured.
    """
    frame = max(row["tokens"] for row in works if row["block"] == "shallow" and row["kind"] == "pass")
    frames = CLIP_FRAMES if frame == CLIP_FRAME_TOKENS else 3
    per_clip = {row["stage"]: row["ms"] * frames / row["latent_frames"] / 1000 for row in stages}
    ways = []
    for evaluations in EVALUATIONS:
        deep, window = _fastest(_deep_seconds(works, frame * frames, evaluations), evaluations)
        shallow, _ = _fastest(_shallow_seconds(works, frame, evaluations), evaluations)
        ways.append(
            {
                "evaluations": evaluations,
                "window": window,
                "deep": deep,
                "shallow": SHALLOW_BLOCKS * shallow,
                "denoising": per_clip["denoising"],
                "decoding": per_clip["decoding"],
            }
        )
        ways[-1]["total"] = sum(ways[-1][stage] for stage in ("deep", "shallow", "denoising", "decoding"))
    return ways


def _fastest(seconds: dict[int, float], evaluations: int) -> tuple[float, int]:
    """The least seconds, and the window that takes them: of one token for one evaluation, else of several."""
    allowed = {window: each for window, each in seconds.items() if (window == 1) == (evaluations == 1)}
    window = min(allowed, key=allowed.__getitem__)
    return allowed[window], window


def _deep_seconds(works: Rows, num_tokens: int, evaluations: int) -> dict[int, float]:
    """Of all sweeps, by window, whose cost grows with the cache."""
    sweeps: dict[int, dict[int, float]] = {}
    for row in works:
        if row["block"] == "deep" and row["kind"] == "sweep":
            sweeps.setdefault(row["tokens"], {})[row["cached"]] = row["ms"]
    seconds = {}
    for window, by_cached in sweeps.items():
        cached = sorted(by_cached)
        places = np.arange(num_tokens)
        mean_ms = np.interp(places, cached, [by_cached[length] for length in cached]).mean()
        seconds[window] = float(evaluations * num_tokens / window * mean_ms / 1000)
    return seconds


def _shallow_seconds(works: Rows, frame: int, evaluations: int) -> dict[int, float]:
    """Of one shallow block, all frames being one batch, by window."""
    rows = [row for row in works if row["block"] == "shallow"]
    all_frames = max(row["rows"] for row in rows)
    return {
        row["tokens"]: evaluations * frame / row["tokens"] * row["ms"] / 1000
        for row in rows
        if row["rows"] == all_frames
    }
