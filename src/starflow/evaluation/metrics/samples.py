"""Clips generated for the first captions, to look at."""

from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline

PURPOSE = 0  # of noise
NUM_SHOWN = 8


def generate_samples(pipeline: StarFlowPipeline, clips: CaptionedClips, settings: EvaluationSettings) -> Measured:
    """Generate a clip for each of the first captions. Raises StarflowError on NaN in a sample."""
    captions = clips.captions[:NUM_SHOWN]
    samples, report = generate(pipeline, captions, settings, "samples", purpose=PURPOSE)
    shown = zip(captions, samples, clips.frames, strict=False)
    cards = [Card(caption, {"generated": generated, "true": true}) for caption, generated, true in shown]
    return Measured({"num_clips": len(captions), "sampling": sampling_results(report)}, cards)
