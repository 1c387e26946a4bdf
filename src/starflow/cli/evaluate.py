"""`starflow evaluate`: measure a model, and write a JSON file and a page with pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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

TOYWORLD_NUMBERS = (  # flag, minimum, default, help
    ("--num-prompts", 0, 200, "held-out captions of one object"),
    ("--num-two-object-prompts", 0, 100, "held-out captions of two objects"),
    ("--task-clips", 0, 50, "clips for image-to-video, continuation and last frames; twice as many for edits"),
    ("--long-clips", 0, 20, "long videos, to measure drift"),
    ("--long-seconds", 1, 30, "seconds of each long video"),
)


def toyworld_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of toyworld's checks, the fields of `ToyworldSettings`."""
    for flag, minimum, default, about in reversed(TOYWORLD_NUMBERS):
        number = click.IntRange(minimum)
        command = click.option(flag, type=number, default=default, show_default=True, help=f"Toyworld only: {about}.")(
            command
        )
    about = "Toyworld only: a file of captions, one per line, to use instead of the held-out ones."
    return click.option("--prompts", type=click.Path(path_type=Path), help=about)(command)


@click.command()
@click.argument("model")
@click.option(
    "--data",
    help="A folder of clips, each with its caption in a text file of the same name, or another source: see "
    "`starflow data --help`. [default: toyworld's clips]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="The folder for evaluation.json and index.html.",
)
@click.option(
    "--num-clips",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Clips for reconstruction, likelihood, retrieval and denoising. All are held in memory.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="The seed of the noise and clips.")
@toyworld_options
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
    **toyworld: Any,
) -> None:
    """Measure MODEL: a bundled model by name, a folder, or a hub id.

    On any clips, this measures how well the autoencoder reconstructs them, how likely they are under the flow, whether
    the flow finds their captions, what the denoiser improves, and how fast clips are generated.

    Without --data, the clips are those of toyworld. Then it also checks whether generated clips show what their
    captions say, and measures the other tasks, long videos, and the flow's surprise at impossible events. This takes
    about five minutes on two CPU cores.

    \b
    starflow evaluate toyworld -o evaluation
    starflow evaluate runs/mine/final --data clips/ --num-clips 50
    """
    if data is not None:
        _refuse_toyworld_options(context, list(toyworld))
    require_extra("evaluate")
    start_loading(model)

    from starflow.data.clip import left_out
    from starflow.data.sources import build_source, source_config
    from starflow.evaluation.report.pieces import plain
    from starflow.evaluation.run import evaluate as evaluate_pipeline
    from starflow.evaluation.run import require_writable, write
    from starflow.evaluation.settings import EvaluationSettings
    from starflow.toyworld.evaluation.checks import ToyworldSettings, evaluate_toyworld

    source = None if data is None else build_source(source_config(data))
    pipeline = load_pipeline(model, device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    require_writable(output)
    settings = EvaluationSettings(num_clips, seed, guidance_scale, sampler, tolerance)
    if source is None:
        evaluation = evaluate_toyworld(pipeline, settings, ToyworldSettings(**toyworld), _name(model), say)
    else:
        for reason in left_out(source):
            say(f"left out: {reason}")
        evaluation = evaluate_pipeline(pipeline, source, settings, _name(model), tell=say)
    write(evaluation, output)
    for label, value in evaluation.headlines:
        click.echo(f"{plain(label)}: {plain(value)}")
    click.echo(f"{output / 'evaluation.json'} and {output / 'index.html'}")


def _refuse_toyworld_options(context: click.Context, names: list[str]) -> None:
    given = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"with --data, leave out {flags}: these checks need toyworld's clips")


def _name(model: str) -> str:
    """The model's name in the results; of an absolute path, only the last part."""
    return Path(model).name if Path(model).is_absolute() else model
