"""`starflow evaluate`: measure a model; write a JSON and a page with pictures."""

from pathlib import Path

import click

from starflow.cli.common import generation_options, require_extra
from starflow.cli.quiet import hide_loading_bars


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="Folder for evaluation.json and index.html.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="A file of captions of the toyworld grammar, one a line, to follow instead of the held-out ones.",
)
@click.option(
    "--num-prompts", type=click.IntRange(0), default=200, show_default=True, help="Held-out captions of one object."
)
@click.option(
    "--num-two-object-prompts",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Held-out captions of two objects.",
)
@click.option(
    "--num-clips",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Held-out clips for reconstruction, likelihood and denoising.",
)
@click.option(
    "--task-clips",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="Held-out clips for each of image-to-video, continuation and last frames; twice as many edits.",
)
@click.option("--long-clips", type=click.IntRange(0), default=20, show_default=True, help="Long videos for drift.")
@click.option(
    "--long-seconds", type=click.IntRange(1), default=30, show_default=True, help="Seconds of each long video."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of captions, clips and noise.")
@generation_options("guidance_scale", "sampler", "tolerance")
def evaluate(
    model: str,
    output: Path,
    prompts: Path | None,
    num_prompts: int,
    num_two_object_prompts: int,
    num_clips: int,
    task_clips: int,
    long_clips: int,
    long_seconds: int,
    seed: int,
    guidance_scale: float | None,
    sampler: str | None,
    tolerance: float | None,
) -> None:
    """Measure MODEL, a toyworld model: a bundled one by name, a folder, or a hub id.

    How well its VAE reconstructs, how likely its flow finds held-out clips, whether it finds a clip's caption and is
    surprised by what cannot happen, what its denoiser is worth, and how often the clips that it generates show what
    their captions say. Some minutes on two cores.

    \b
    starflow evaluate toyworld -o evaluation
    """  # noqa: D301 (click's own mark, a backspace, keeps the lines of the examples)
    require_extra("evaluate")
    from starflow.evaluation.run import EvaluationSettings, require_writable, write
    from starflow.evaluation.run import evaluate as evaluate_pipeline
    from starflow.pipeline.pipeline import StarFlowPipeline

    hide_loading_bars()
    pipeline = StarFlowPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    require_writable(output)
    settings = EvaluationSettings(
        num_prompts=num_prompts,
        num_two_object_prompts=num_two_object_prompts,
        num_clips=num_clips,
        task_clips=task_clips,
        long_clips=long_clips,
        long_seconds=long_seconds,
        seed=seed,
        guidance_scale=guidance_scale,
        sampler=sampler,
        tolerance=tolerance,
        prompts=prompts,
    )
    evaluation = evaluate_pipeline(pipeline, settings, _name(model))
    write(evaluation, output)
    click.echo(f"{output / 'evaluation.json'} and {output / 'index.html'}: {_summary(evaluation.results)}")


def _name(model: str) -> str:
    """A model's name for the results: a folder elsewhere on this machine by its last part only."""
    return Path(model).name if Path(model).is_absolute() else model


def _summary(results: dict) -> str:
    said = [
        f"VAE {results['vae']['psnr']['mean']:.2f} dB",
        f"{results['likelihood']['caption']['nats_per_dim']['mean']:.3f} nats per dimension",
    ]
    for group in ("one_object", "two_objects"):
        if part := results["compliance"][group]:
            share = part["generated"]["all"]
            said.append(f"{group.replace('_', ' ')} {100 * share['value']:.1f}% right in everything")
    return ", ".join([*said, f"{results['model']['seconds']['total']:.0f} s"])
