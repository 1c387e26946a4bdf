"""The evaluation of a model of a game: the general measurements on held-out episodes, and the game's own checks.

The keys that these checks add to `evaluation.json` (see `starflow.evaluation.run` for the others). An *estimate* is
`{value, interval, n, num_groups}` with the 95 % interval of the bootstrap over episodes.

    model.settings
      game_clips, minutes, training: the fingerprint of the training episodes
    autoencoder, next_frame, rollouts, control, monsters, surprise, pairs: see `evaluate_autoencoder`,
      `evaluate_next_frame`, `evaluate_rollouts`, `evaluate_control`, `evaluate_monsters`, `evaluate_surprise` and
      `make_pairs`
    minute: null, or see `evaluate_minutes`
"""

from collections.abc import Callable
from dataclasses import dataclass

from starflow.errors import UsageError
from starflow.evaluation.contract import Check, Findings
from starflow.evaluation.run import Evaluation, evaluate
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.worlds.evaluation import headlines, page
from starflow.worlds.evaluation.clips import game_clips
from starflow.worlds.evaluation.control import evaluate_control
from starflow.worlds.evaluation.material import Material
from starflow.worlds.evaluation.minute import evaluate_minutes
from starflow.worlds.evaluation.monsters import evaluate_monsters
from starflow.worlds.evaluation.pairs import make_pairs
from starflow.worlds.evaluation.pixels import evaluate_autoencoder, evaluate_next_frame, evaluate_rollouts
from starflow.worlds.evaluation.surprise import evaluate_surprise
from starflow.worlds.game import ACTION_SPACE, FPS, SIZE
from starflow.worlds.source import Episodes


@dataclass(frozen=True)
class FreedoomSettings:
    """What the checks of a game measure.

    Attributes:
        game_clips: the largest number of clips of held-out episodes.
        minutes: the number of rollouts of a minute, 0 for none.
    """

    game_clips: int = 60
    minutes: int = 4


def evaluate_freedoom(
    pipeline: StarFlowPipeline,
    held_out: Episodes,
    training: Episodes,
    settings: EvaluationSettings,
    freedoom: FreedoomSettings,
    name: str,
    tell: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure a model of a game on held-out episodes; `name` and `tell` as in `evaluate`.

    `training` has the episodes that the model was trained on, or others of the same scenarios, but no held-out ones.

    Raises:
        UsageError: the model is not one of this game, or the episodes are too short or the same.
        StarflowError: NaN in a sample or a measurement, an episode cannot be read, or ViZDoom is missing.
    """
    require_game(pipeline)
    if common := {file.name for file in held_out.files} & {file.name for file in training.files}:
        raise UsageError(f"{min(common)} is held out and also an episode of training: measure on other episodes")
    material = Material(pipeline, game_clips(held_out, freedoom.game_clips), training, settings)
    checks = freedoom_checks(material, freedoom)
    return evaluate(pipeline, held_out, settings, name, checks=checks, tell=tell)


def freedoom_checks(material: Material, freedoom: FreedoomSettings) -> list[Check]:
    """The checks of a model of a game."""

    def autoencoder() -> Findings:
        results = evaluate_autoencoder(material)
        return Findings(results, page.autoencoder_section(results), [*headlines.autoencoder(results)])

    def next_frame() -> Findings:
        results = evaluate_next_frame(material)
        return Findings(results, page.next_frame_section(results), [*headlines.next_frame(results)])

    def rollouts() -> Findings:
        measured = evaluate_rollouts(material)
        return Findings(measured.results, page.rollouts_section(measured), [*headlines.rollouts(measured.results)])

    def control() -> Findings:
        results = evaluate_control(material)
        return Findings(results, page.control_section(results), [*headlines.control(results)])

    def monsters() -> Findings:
        results = evaluate_monsters(material)
        return Findings(results, page.monsters_section(results), [*headlines.monsters(results)])

    def minute() -> Findings:
        if not freedoom.minutes:
            return Findings(None)
        measured = evaluate_minutes(material, freedoom.minutes)
        return Findings(measured.results, page.minute_section(measured), [*headlines.minute(measured.results)])

    def surprise() -> Findings:
        measured = evaluate_surprise(material)
        return Findings(measured.results, page.surprise_section(measured), [*headlines.surprise(measured.results)])

    def pairs() -> Findings:
        measured = make_pairs(material)
        return Findings(measured.results, page.pairs_section(measured))

    return [
        Check("autoencoder", autoencoder, {"training": material.training.fingerprint}),
        Check("next_frame", next_frame),
        Check("rollouts", rollouts, {"game_clips": len(material.clips)}),
        Check("control", control),
        Check("monsters", monsters),
        Check("minute", minute, {"minutes": freedoom.minutes}),
        Check("surprise", surprise),
        Check("pairs", pairs),
    ]


def require_game(pipeline: StarFlowPipeline) -> None:
    """Raises UsageError if a model does not take the game's actions, or makes other videos."""
    if pipeline.flow.action_space != ACTION_SPACE:
        raise UsageError("this model does not take the actions of these episodes: train it on episodes")
    config = pipeline.config
    own = (config.width, config.height, config.fps, pipeline.codec.temporal_factor)
    if own != (SIZE, SIZE, FPS, 1):
        raise UsageError(
            f"this model makes {own[0]}×{own[1]} pixels at {own[2]:g} per second, {own[3]} frames at once, but the "
            f"game has {SIZE}×{SIZE} at {FPS:g} per second, one at once"
        )
