"""Clips from a model, as an evaluation needs them: in batches, and the same whatever the batch.

Legend: `n` clips, `F` video frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from starflow.evaluation.clips import Frames, batches
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import SamplingReport

GENERATE_BATCH = 20


@dataclass(frozen=True)
class SamplingSettings:
    """How clips are generated; what is None is the model's own default."""

    seed: int
    guidance_scale: float | None
    sampler: str | None
    tolerance: float | None


def generate(
    pipeline: StarFlowPipeline,
    captions: Sequence[str],
    settings: SamplingSettings,
    description: str,
    *,
    purpose: int,
    batch_size: int = GENERATE_BATCH,
    num_frames: int | None = None,
    given: Mapping[str, Sequence[Any] | Frames] | None = None,
) -> tuple[Frames, SamplingReport]:
    """A clip for each caption; its noise depends on the seed, the purpose, and its place among the captions only.

    Args:
        pipeline: the model.
        captions: what the clips are to show.
        settings: how to generate.
        description: of the clips, on the progress bar.
        purpose: any number: other purposes get other noise.
        batch_size: clips at once.
        num_frames: `F`, by default the model's.
        given: by the names of the pipeline's options (`image`, `video`, …), one thing for each caption.

    Returns:
        Frames `(n, F, height, width, 3)`, and what the solvers did.

    Raises:
        StarflowError: NaN in what was sampled.
    """
    frames, report = [], SamplingReport()
    with tqdm(total=len(captions), desc=f"{description}: generating", unit="clip", disable=None) as bar:
        for batch in batches(len(captions), batch_size):
            things: dict[str, Any] = {name: list(each[batch]) for name, each in (given or {}).items()}
            output = pipeline(
                captions[batch],
                num_frames=num_frames,
                generator=[_generator(settings.seed, purpose, index) for index in range(batch.start, batch.stop)],
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                tolerance=settings.tolerance,
                output_type="np",
                **things,
            )
            frames.append((output.frames * 255).round().astype(np.uint8))
            report.deep += output.report.deep
            report.shallow += output.report.shallow
            bar.update(batch.stop - batch.start)
    return np.concatenate(frames), report


def sampling_results(report: SamplingReport) -> dict[str, Any]:
    """What `evaluation.json` says of the solvers."""
    both = report.deep + report.shallow
    return {
        "converged": both.converged,
        "max_residual": both.max_residual,
        "evaluations_per_token": both.evaluations / both.tokens,
    }


def _generator(seed: int, purpose: int, index: int) -> torch.Generator:
    words = np.random.SeedSequence([seed, purpose, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
