"""Score the clip of a job: its likelihood under each caption."""

from pathlib import Path
from typing import Any

from starflow.likelihood.score import Likelihood, log_likelihood
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.serve.database import Job
from starflow.serve.decoding import read_frames


def score(pipeline: StarFlowPipeline, job: Job, folder: Path) -> dict[str, Any]:
    """The JSON of `starflow.serve.schema.Scores`. Raises as `log_likelihood`."""
    settings = job.settings
    clip = read_frames(folder / "given" / "video.safetensors")
    likelihoods = log_likelihood(
        pipeline, clip, settings["prompts"], noise_samples=settings["noise_samples"], seed=settings["seed"]
    )
    return {
        "model": settings["model"],
        "num_frames": len(clip),
        "fps": settings["fps"],
        "num_dims": likelihoods[0].num_dims,
        "noise_samples": settings["noise_samples"],
        "scores": [_row(*pair) for pair in zip(settings["prompts"], likelihoods, strict=True)],
    }


def _row(prompt: str, likelihood: Likelihood) -> dict[str, Any]:
    total = likelihood.log_likelihood
    return {
        "prompt": prompt,
        "log_likelihood": total.mean,
        "standard_error": total.standard_error,
        "nats_per_dim": likelihood.nats_per_dim,
        "bits_per_dim": likelihood.bits_per_dim,
        "per_frame": likelihood.per_frame.tolist(),
        "surprise": likelihood.surprise.tolist(),
    }
