"""`starflow evaluate`: measure a model, and write a JSON file, a table and a page with pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from starflow.cli.common import (
    SEED,
    device_options,
    generation_options,
    load_pipeline,
    require_extra,
    say,
    start_loading,
)
from starflow.errors import UsageError

if TYPE_CHECKING:
    from starflow.evaluation.run import Evaluation
    from starflow.evaluation.settings import EvaluationSettings
    from starflow.pipeline.pipeline import StarFlowPipeline

TOYWORLD_NUMBERS = (  # flag, minimum, default, help
    ("--num-prompts", 0, 200, "held-out captions of one object"),
    ("--num-two-object-prompts", 0, 100, "held-out captions of two objects"),
    ("--task-clips", 0, 50, "clips for image-to-video, continuation and last frames; twice as many for edits"),
    ("--long-clips", 0, 20, "long videos, to measure drift"),
    ("--long-seconds", 1, 30, "seconds of each long video"),
)
GAME_NUMBERS = (
    ("--game-clips", 1, 60, "clips of held-out episodes, at most"),
    ("--minutes", 0, 4, "rollouts of a minute"),
)
TOYWORLD_OPTIONS = ("num_prompts", "num_two_object_prompts", "task_clips", "long_clips", "long_seconds", "prompts")
GAME_OPTIONS = ("game_clips", "minutes", "training")


def world_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of toyworld's checks and of a game's checks."""
    for world, numbers in (("Game", GAME_NUMBERS), ("Toyworld", TOYWORLD_NUMBERS)):
        for flag, minimum, default, about in reversed(numbers):
            text = f"{world} only: {about}."
            number = click.IntRange(minimum)
            command = click.option(flag, type=number, default=default, show_default=True, help=text)(command)
    about = "Toyworld only: a file of captions, one per line, to use instead of the held-out ones."
    command = click.option("--prompts", type=click.Path(path_type=Path), help=about)(command)
    about = "Game only: the folder of the episodes of training. [default: record some into OUTPUT/episodes/train]"
    return click.option("--training", type=click.Path(exists=True, file_okay=False), help=about)(command)


@click.command()
@click.argument("model")
@click.option(
    "--data",
    help="A folder of clips, each with its caption in a text file of the same name, or another source: see "
    "`starflow data --help`. [default: toyworld's clips, or new episodes for a model of the game]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="The folder for evaluation.json, table.md and index.html.",
)
@click.option(
    "--num-clips",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Clips for reconstruction, likelihood, retrieval and denoising. All are held in memory.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="The seed of the noise and clips.")
@world_options
@generation_options("guidance_scale", "sampler", "tolerance")
@device_options
@click.pass_context
def evaluate(
    context: click.Context,
    model: str,
    data: str | None,
    output: Path,
    num_clips: int,
    seed: int,
    guidance_scale: float | None,
    sampler: str | None,
    tolerance: float | None,
    device: str | None,
    dtype: str,
    **worlds: Any,
) -> None:
    """Measure MODEL: a bundled model by name, a folder, or a hub id.

    On any clips, this measures how well the autoencoder reconstructs them, how likely they are under the flow, whether
    the flow finds their captions, what the denoiser improves, and how fast clips are generated.

    Without --data, the clips are those of toyworld. Then it also checks whether generated clips show what their
    captions say, and measures the other tasks, long videos, and the flow's surprise at impossible events. This takes
    about five minutes on two CPU cores.

    A model of the game (recipes/freedoom) is measured on held-out episodes, by default new ones. Then it also measures
    next frames, rollouts, what they show of the actions and monsters, a minute of play, and surprise.

    \b
    starflow evaluate toyworld -o evaluation
    starflow evaluate runs/mine/final --data clips/ --num-clips 50
    starflow evaluate runs/game/final --data episodes/test --training episodes/train
    """
    require_extra("evaluate")
    start_loading(model)

    from starflow.data.clip import left_out
    from starflow.data.sources import build_source, source_config
    from starflow.evaluation.report.pieces import plain
    from starflow.evaluation.run import evaluate as evaluate_pipeline
    from starflow.evaluation.run import require_writable, write
    from starflow.evaluation.settings import EvaluationSettings
    from starflow.worlds.source import Episodes

    source = None if data is None else build_source(source_config(data))
    pipeline = load_pipeline(model, device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    is_game = isinstance(source, Episodes) or (source is None and pipeline.flow.action_space == Episodes.action_space)
    is_toyworld = source is None and not is_game
    _refuse(context, GAME_OPTIONS, is_game, "for the episodes of a game")
    _refuse(context, TOYWORLD_OPTIONS, is_toyworld, "for toyworld's clips")
    require_writable(output)
    settings = EvaluationSettings(num_clips, seed, guidance_scale, sampler, tolerance)
    if is_game:
        evaluation = _evaluate_game(pipeline, source, settings, _name(model), output, **_some(worlds, GAME_OPTIONS))
    elif is_toyworld:
        from starflow.toyworld.evaluation.checks import ToyworldSettings, evaluate_toyworld

        toyworld = ToyworldSettings(**_some(worlds, TOYWORLD_OPTIONS))
        evaluation = evaluate_toyworld(pipeline, settings, toyworld, _name(model), say)
    else:
        assert source is not None
        for reason in left_out(source):
            say(f"left out: {reason}")
        evaluation = evaluate_pipeline(pipeline, source, settings, _name(model), tell=say)
    write(evaluation, output)
    for label, value in evaluation.headlines:
        click.echo(f"{plain(label)}: {plain(value)}")
    click.echo(f"{output / 'evaluation.json'}, {output / 'table.md'} and {output / 'index.html'}")


def _evaluate_game(
    pipeline: "StarFlowPipeline",
    source: Any,
    settings: "EvaluationSettings",
    name: str,
    output: Path,
    *,
    training: str | None,
    **numbers: int,
) -> "Evaluation":
    from starflow.worlds.evaluation.checks import FreedoomSettings, evaluate_freedoom, require_game
    from starflow.worlds.evaluation.recorded import held_out_and_training
    from starflow.worlds.source import Episodes

    require_game(pipeline)
    say("preparing the episodes")
    episodes = held_out_and_training(source, None if training is None else Episodes(training), output / "episodes")
    return evaluate_freedoom(pipeline, *episodes, settings, FreedoomSettings(**numbers), name, say)


def _refuse(context: click.Context, names: tuple[str, ...], allowed: bool, what: str) -> None:
    """Raises UsageError if options were given that are not for these clips."""
    given = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given and not allowed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"leave out {flags}: such options are only {what}")


def _some(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options[name] for name in names}


def _name(model: str) -> str:
    """The model's name in the results; of an absolute path, only the last part."""
    return Path(model).name if Path(model).is_absolute() else model
