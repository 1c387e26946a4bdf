"""What the measurements compare: the truth, its reconstruction by the autoencoder, and rollouts of the model.

Legend: `n` clips, `F` frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from starflow.evaluation.generation import generate
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.settings import EvaluationSettings
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.worlds.episodes import Episode
from starflow.worlds.evaluation.clips import CONTEXT, GameClips
from starflow.worlds.evaluation.training import Library, learned_episodes
from starflow.worlds.source import Episodes

PURPOSE = 20  # of noise
Result = TypeVar("Result")


@dataclass(frozen=True)
class Material:
    """What several measurements need, made when it is first needed.

    Attributes:
        pipeline: the model.
        clips: of held-out episodes.
        training: the episodes that the model was trained on.
        settings: how to generate.
    """

    pipeline: StarFlowPipeline
    clips: GameClips
    training: Episodes
    settings: EvaluationSettings

    @cached_property
    def reconstructions(self) -> Frames:
        """The clips through the autoencoder, `(n, F, 64, 64, 3)`."""
        return reconstruct(self.pipeline, self.clips.frames, "reconstruction").frames

    @cached_property
    def rollouts(self) -> Frames:
        """The contexts of the clips, continued by the model, `(n, F, 64, 64, 3)`."""
        return roll_out(self.pipeline, self.clips, self.settings, "rollouts", PURPOSE)

    @cached_property
    def library(self) -> Library:
        """All training frames."""
        return Library.of(self.training)

    @cached_property
    def learned(self) -> list[Episode]:
        """The training episodes that networks learn from."""
        return learned_episodes(self.training)


def roll_out(
    pipeline: StarFlowPipeline, clips: GameClips, settings: EvaluationSettings, description: str, purpose: int
) -> Frames:
    """Continue the first `CONTEXT` frames of clips with their actions: `(n, F, 64, 64, 3)`.

    Raises StarflowError on NaN in a sample.
    """
    given = {"extend": clips.frames[:, :CONTEXT], "actions": clips.actions}
    frames, _ = generate(
        pipeline, clips.captions, settings, description, purpose=purpose, num_frames=clips.num_frames, given=given
    )
    return frames


def by_scenario(scenarios: NDArray[np.str_], measure: Callable[[NDArray[np.intp]], Result]) -> dict[str, Result]:
    """What is measured on all rows, under `all`, and on those of each scenario, under its name."""
    names = [str(name) for name in np.unique(scenarios)]
    return {"all": measure(np.arange(len(scenarios)))} | {
        name: measure(np.flatnonzero(scenarios == name)) for name in names
    }
