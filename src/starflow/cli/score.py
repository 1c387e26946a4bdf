"""`starflow score`: the log-likelihood of clips under captions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.common import SEED, input_fps_option, load_pipeline, model_options, require_extra, say, start_loading
from starflow.cli.lora import Lora, lora_option
from starflow.cli.progress import with_progress
from starflow.cli.score_table import Scored, clip_table, pairs_table
from starflow.errors import UsageError
from starflow.media.prompts import normalize_prompt, read_prompt_lines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from starflow.likelihood.score import Likelihood
    from starflow.pipeline.pipeline import StarFlowPipeline

CAVEAT = "likelihoods compare only between models with the same VAE and noise level"


@click.command()
@click.argument("clips", nargs=-1, metavar="[CLIP]…")
@click.option("--prompt", "prompts", multiple=True, help="A caption; give at least one, or --pairs.")
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    help="A text file of clips and captions, instead of CLIP and --prompt: a path, a tab and a caption on each line. "
    "Paths are relative to the file.",
)
@click.option("--against", help="A second model, to show its likelihoods beside those of --model.")
@click.option(
    "--noise-samples",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Draws of the noise on the latents; the result is their mean and its standard error.",
)
@click.option("--null", is_flag=True, help="Also score the empty caption, and show the gain over it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line, for each model, clip and caption.")
@click.option(
    "--heatmap",
    type=click.Path(path_type=Path),
    help="Write a video (.mp4, .gif, .webp) that shows the surprise of each token, and a plot next to it (.png).",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the noise.")
@input_fps_option
@model_options
@lora_option
def score(
    clips: tuple[str, ...],
    prompts: tuple[str, ...],
    pairs: Path | None,
    against: str | None,
    noise_samples: int,
    null: bool,
    as_json: bool,
    heatmap: Path | None,
    seed: int,
    input_fps: float | None,
    model: str,
    loras: list[Lora],
    device: str | None,
    dtype: str,
) -> None:
    """Compute the exact log-likelihood of each CLIP under each caption.

    It is that of the clip's latents with added noise, as in training. Nats and bits per dimension are the negative
    log-likelihood: lower is likelier. Likelihoods compare only between models with the same VAE and noise level.

    \b
    starflow score clip.mp4 --prompt "a red circle moves right" --noise-samples 8 --null
    starflow score clip.mp4 --prompt "a red circle moves right" --heatmap surprise.mp4
    starflow score --pairs clips.tsv --against runs/mine/final
    """
    tasks = [(clip, list(prompts)) for clip in clips] if pairs is None else _read_pairs(pairs, clips, prompts)
    _check(tasks, heatmap, is_alone=pairs is None and against is None)
    models = [model] if against is None else [model, against]
    adapters = [loras, []]  # of each model
    for name, own in zip(models, adapters, strict=False):
        start_loading(name, loras=own)

    from starflow.cli.clips import read_clip
    from starflow.likelihood.score import comparable, log_likelihood

    pipelines = [load_pipeline(name, device, dtype, loras=own) for name, own in zip(models, adapters, strict=False)]
    rows: list[Scored] = []
    for path, captions in with_progress(tasks, lambda task: task[0]) if pairs is not None else tasks:
        scored = [Scored(path, caption) for caption in captions]
        for pipeline in pipelines:
            clip = read_clip(pipeline, path, input_fps)
            asked = [*captions, ""] if null else captions
            scores = log_likelihood(pipeline, clip, asked, noise_samples=noise_samples, seed=seed)
            for row, likelihood in zip(scored, scores, strict=False):
                row.likelihoods.append(likelihood)
                row.empty.append(scores[-1] if null else None)
        rows += scored
        if as_json:
            _print_json(scored, models)
        elif pairs is None and against is None:
            click.echo(clip_table(scored, pipelines[0].config.noise_std))
        if heatmap is not None:
            _draw(heatmap, clip, scored[0].likelihoods[0], pipelines[0], f"{Path(path).name}: {captions[0]}")
    is_comparable = against is None or comparable(*pipelines)
    if not as_json and (pairs is not None or against is not None):
        click.echo(pairs_table(rows, models, with_difference=is_comparable))
    say(CAVEAT if is_comparable else f"warning: {model} and {against} have different VAEs, noise or formats: {CAVEAT}")


def _read_pairs(file: Path, clips: Sequence[str], prompts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The clips of a file with their captions. Raises UsageError for a line that is none."""
    if clips or prompts:
        raise UsageError("--pairs names clips and captions: leave out CLIP and --prompt")
    tasks = []
    for number, line in read_prompt_lines(file):
        clip, _, caption = line.partition("\t")
        if not caption.strip():
            raise UsageError(f"{file}, line {number}: write the path of a clip, a tab and its caption")
        tasks.append((str(file.parent / clip.strip()), [normalize_prompt(caption)]))
    return tasks


def _check(tasks: Sequence[tuple[str, list[str]]], heatmap: Path | None, *, is_alone: bool) -> None:
    """Check the arguments before the model is loaded. Raises UsageError or StarflowError."""
    if not tasks:
        raise UsageError("give a clip to score, such as clip.mp4")
    if any(not captions or not all(map(str.strip, captions)) for _, captions in tasks):
        raise UsageError('give a caption with --prompt, such as "a red circle moves right"; --null adds the empty one')
    if heatmap is None:
        return
    if len(tasks) > 1 or len(tasks[0][1]) > 1 or not is_alone:
        raise UsageError("--heatmap draws one clip under one caption, for one model: give one of each")
    require_extra("evaluate")

    from starflow.media.video import check_writable

    check_writable(heatmap, 2)
    check_writable(heatmap.with_suffix(".png"))


def _print_json(rows: Sequence[Scored], models: Sequence[str]) -> None:
    for row in rows:
        for model, likelihood, empty in zip(models, row.likelihoods, row.empty, strict=True):
            click.echo(json.dumps(_json(model, row, likelihood, empty), ensure_ascii=False))


def _json(model: str, scored: Scored, likelihood: "Likelihood", empty: "Likelihood | None") -> dict[str, Any]:
    total = likelihood.log_likelihood
    row = {
        "model": model,
        "clip": scored.clip,
        "prompt": scored.caption,
        "log_likelihood": total.mean,
        "standard_error": total.standard_error,
        "nats_per_dim": likelihood.nats_per_dim,
        "bits_per_dim": likelihood.bits_per_dim,
        "per_frame": likelihood.per_frame.tolist(),
        "num_dims": likelihood.num_dims,
        "noise_samples": len(likelihood.deep),
    }
    if empty is None:
        return row
    gain = likelihood.gain(empty)
    return row | {
        "null_log_likelihood": empty.log_likelihood.mean,
        "gain": gain.mean,
        "gain_standard_error": gain.standard_error,
    }


def _draw(
    path: Path, clip: "NDArray[np.uint8]", likelihood: "Likelihood", pipeline: "StarFlowPipeline", title: str
) -> None:
    from starflow.likelihood.heatmap import write_heatmap, write_plot

    factor, fps = pipeline.codec.temporal_factor, pipeline.config.fps
    surprise = likelihood.surprise.numpy()
    video = write_heatmap(path, clip, fps, surprise, factor, title)
    plot = path.with_suffix(".png")
    write_plot(plot, clip, fps, surprise, factor, title)
    click.echo(f"{video} and {plot}", err=True)
