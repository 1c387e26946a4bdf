"""Clips generated for the first captions, to be looked at."""

from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline

PURPOSE = 0  # of noise
NUM_SHOWN = 8


def generate_samples(pipeline: StarFlowPipeline, clips: CaptionedClips, settings: EvaluationSettings) -> Measured:
    """Generate a clip for each of the first captions. Raises StarflowError if there is NaN in a sample."""
    captions = clips.captions[:NUM_SHOWN]
    generated, report = generate(pipeline, captions, settings, "samples", purpose=PURPOSE)
    shown = zip(captions, generated, clips.frames, strict=False)
    cards = [Card(caption, {"generated": made, "true": true}) for caption, made, true in shown]
    return Measured({"num_clips": len(captions), "sampling": sampling_results(report)}, cards)
