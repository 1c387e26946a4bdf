"""How long one clip takes."""

import time
from collections.abc import Callable
from typing import Any

import torch

from starflow.evaluation.generation import generator_of, sampling_options, sampling_results
from starflow.evaluation.settings import EvaluationSettings
from starflow.evaluation.statistics import summary
from starflow.pipeline.pipeline import StarFlowPipeline

REPEATS = 3
PURPOSE = 9  # of noise


def evaluate_speed(pipeline: StarFlowPipeline, caption: str, settings: EvaluationSettings) -> dict[str, Any]:
    """Measure the time from the prompt to one clip, and to its first streamed frame, after a warm-up.

    Returns:
        `num_frames`, `width` and `height` of the clip; `clip` and `first_frame`, summaries in seconds over `REPEATS`
        runs with the same noise; and `evaluations_per_token` of the solvers.

    Raises:
        StarflowError: NaN in a sample.
    """

    def options() -> dict[str, Any]:
        noise = generator_of(settings.seed, PURPOSE, 0)
        return {"generator": noise, "output_type": "np", **sampling_options(settings)}

    def first_frame() -> None:
        with pipeline.stream(caption, **options()) as frames:
            next(frames)

    warm_up = pipeline(caption, **options())
    return {
        "num_frames": pipeline.config.num_frames,
        "width": pipeline.config.width,
        "height": pipeline.config.height,
        "clip": summary(_seconds(lambda: pipeline(caption, **options()))),
        "first_frame": summary(_seconds(first_frame)),
        "evaluations_per_token": sampling_results(warm_up.report)["evaluations_per_token"],
    }


def _seconds(run: Callable[[], object]) -> torch.Tensor:
    """The seconds of each of `REPEATS` runs."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return torch.tensor(seconds)
