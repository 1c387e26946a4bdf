"""What an evaluation is asked for."""

from dataclasses import asdict, dataclass
from typing import Any

from starflow.pipeline.pipeline import StarFlowPipeline


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured on any source of clips, and how clips are generated.

    Attributes:
        num_clips: how many clips of the source are used, if it has so many.
        seed: of the noise, and of clips that are made at random.
        guidance_scale, sampler, tolerance: options of the pipeline; None is the model's default.
    """

    num_clips: int = 200
    seed: int = 0
    guidance_scale: float | None = None
    sampler: str | None = None
    tolerance: float | None = None

    def resolved(self, pipeline: StarFlowPipeline) -> dict[str, Any]:
        """The settings, with the model's defaults in the place of None."""
        return {name: pipeline.config[name] if value is None else value for name, value in asdict(self).items()}
