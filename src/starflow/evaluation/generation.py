"""Generating clips in batches, with noise that does not depend on the batch.

Legend: `n` clips, `F` video frames.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from starflow.evaluation.clips import batches
from starflow.evaluation.settings import EvaluationSettings
from starflow.media.frames import Frames, from_unit
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import SamplingReport

TOKENS_AT_ONCE = 1600


def generate(
    pipeline: StarFlowPipeline,
    captions: Sequence[str],
    settings: EvaluationSettings,
    description: str,
    *,
    purpose: int,
    num_frames: int | None = None,
    given: Mapping[str, Sequence[Any] | Frames] | None = None,
) -> tuple[Frames, SamplingReport]:
    """Generate a clip for each caption.

    The noise of a clip depends only on the seed, the purpose and the clip's index.

    Args:
        pipeline: the model.
        captions: one for each clip.
        settings: the seed, and the options of generation.
        description: of the clips, for the progress bar.
        purpose: a number; each purpose has its own noise.
        num_frames: `F`, by default the model's.
        given: options of the pipeline such as `image` and `video`, each with one value for each caption.

    Returns:
        Frames `(n, F, height, width, 3)`, and the report of the solvers.

    Raises:
        StarflowError: NaN in a sample.
    """
    frames, report = [], SamplingReport()
    with tqdm(total=len(captions), desc=f"{description}: generating", unit="clip", disable=None) as bar:
        for batch in batches(pipeline, len(captions), TOKENS_AT_ONCE):
            values: dict[str, Any] = {name: list(each[batch]) for name, each in (given or {}).items()}
            output = pipeline(
                captions[batch],
                num_frames=num_frames,
                generator=[generator_of(settings.seed, purpose, index) for index in range(batch.start, batch.stop)],
                output_type="np",
                **sampling_options(settings),
                **values,
            )
            frames.append(from_unit(output.frames))
            report.deep += output.report.deep
            report.shallow += output.report.shallow
            bar.update(batch.stop - batch.start)
    return np.concatenate(frames), report


def sampling_options(settings: EvaluationSettings) -> dict[str, Any]:
    """The options of the pipeline from the settings."""
    return {
        "guidance_scale": settings.guidance_scale,
        "sampler": settings.sampler,
        "tolerance": settings.tolerance,
    }


def sampling_results(report: SamplingReport) -> dict[str, Any]:
    """The report of the solvers for `evaluation.json`."""
    both = report.deep + report.shallow
    return {
        "converged": both.converged,
        "max_residual": both.max_residual if isfinite(both.max_residual) else None,
        "evaluations_per_token": both.evaluations / both.tokens,
    }


def generator_of(seed: int, purpose: int, index: int) -> torch.Generator:
    """The random generator for the noise of clip `index`."""
    words = np.random.SeedSequence([seed, purpose, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
