"""The settings of an evaluation."""

from dataclasses import asdict, dataclass
from typing import Any

from starflow.pipeline.pipeline import StarFlowPipeline


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of the measurements on any source of clips, and of generation.

    Attributes:
        num_clips: the largest number of clips to use.
        seed: of the noise, and of random clips.
        guidance_scale, sampler, tolerance: options of the pipeline; None is the model's default.
    """

    num_clips: int = 200
    seed: int = 0
    guidance_scale: float | None = None
    sampler: str | None = None
    tolerance: float | None = None

    def resolved(self, pipeline: StarFlowPipeline) -> dict[str, Any]:
        """The settings, with the model's defaults instead of None."""
        return {name: pipeline.config[name] if value is None else value for name, value in asdict(self).items()}
