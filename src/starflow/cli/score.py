"""`starflow score`: the log-likelihood of clips under captions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.common import load_pipeline, model_options, require_extra, start_loading
from starflow.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from starflow.likelihood.score import Estimate, Likelihood
    from starflow.pipeline.pipeline import StarFlowPipeline


@click.command()
@click.argument("clips", nargs=-1, metavar="CLIP…")
@click.option("--prompt", "prompts", multiple=True, help="A caption; give at least one.")
@click.option(
    "--noise-samples",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Draws of the noise on the latents; the result is their mean and its standard error.",
)
@click.option("--null", is_flag=True, help="Also score the empty caption, and show the gain over it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, for each clip and caption.")
@click.option(
    "--heatmap",
    type=click.Path(path_type=Path),
    help="Write a video (.mp4, .gif, .webp) that shows the surprise of each token, and a plot next to it (.png).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the noise.")
@model_options
def score(
    clips: tuple[str, ...],
    prompts: tuple[str, ...],
    noise_samples: int,
    null: bool,
    as_json: bool,
    heatmap: Path | None,
    seed: int,
    model: str,
    device: str | None,
    dtype: str,
) -> None:
    """Compute the exact log-likelihood of each CLIP under each caption.

    It is that of the clip's latents with added noise, as in training. Nats and bits per dimension are the negative
    log-likelihood: lower is likelier.

    \b
    starflow score clip.mp4 --prompt "a red circle moves right" --noise-samples 8 --null
    starflow score clip.mp4 --prompt "a red circle moves right" --heatmap surprise.mp4
    """
    _check(clips, prompts, heatmap)
    start_loading(model)

    from starflow.cli.clips import read_clip
    from starflow.likelihood.score import log_likelihood

    pipeline = load_pipeline(model, device, dtype)
    for path in clips:
        clip = read_clip(pipeline, path)
        captions = [*prompts, ""] if null else prompts
        scores = log_likelihood(pipeline, clip, captions, noise_samples=noise_samples, seed=seed)
        empty = scores[-1] if null else None
        scored = dict(zip(prompts, scores, strict=False))
        if as_json:
            for prompt, likelihood in scored.items():
                click.echo(json.dumps(_json(path, prompt, likelihood, empty), ensure_ascii=False))
        else:
            click.echo(_table(path, scored, empty, pipeline.config.noise_std))
        if heatmap is not None:
            _draw(heatmap, clip, scores[0], pipeline, f"{Path(path).name}: {prompts[0]}")


def _check(clips: tuple[str, ...], prompts: tuple[str, ...], heatmap: Path | None) -> None:
    """Check the arguments before the model is loaded. Raises UsageError or StarflowError."""
    if not clips:
        raise UsageError("give a clip to score, such as clip.mp4")
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise UsageError('give a caption with --prompt, such as "a red circle moves right"; --null adds the empty one')
    if heatmap is None:
        return
    if len(clips) > 1 or len(prompts) > 1:
        raise UsageError("--heatmap draws one clip under one caption: give one of each")
    require_extra("evaluate")

    from starflow.media.video import check_writable

    check_writable(heatmap, 2)
    check_writable(heatmap.with_suffix(".png"))


def _json(path: str, prompt: str, likelihood: "Likelihood", empty: "Likelihood | None") -> dict[str, Any]:
    total = likelihood.log_likelihood
    row = {
        "clip": path,
        "prompt": prompt,
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


def _table(path: str, scored: "dict[str, Likelihood]", empty: "Likelihood | None", noise_std: float) -> str:
    """A row per caption, the likeliest first, and a line that names the best caption."""
    ranked = sorted(scored, key=lambda prompt: -scored[prompt].log_likelihood.mean)
    best = scored[ranked[0]]
    num_samples, num_frames = best.deep.shape[:2]
    header = ["log-likelihood (nats)", "nats/dim", "bits/dim", "latent frames (nats)", "caption"]
    rows = []
    for prompt in ranked:
        likelihood = scored[prompt]
        frames = " ".join(f"{nats:.1f}" for nats in likelihood.per_frame.tolist())
        numbers = [f"{likelihood.nats_per_dim:.4f}", f"{likelihood.bits_per_dim:.4f}", frames]
        rows.append([_plus_minus(likelihood.log_likelihood), *numbers, prompt])
        if empty is not None:
            rows[-1].insert(3, _plus_minus(likelihood.gain(empty)))
    if empty is not None:
        header.insert(3, "gain of the caption")
    lines = [
        f"{path}: {num_frames} latent frames, {best.num_dims} dimensions, {num_samples} "
        f"{'draw' if num_samples == 1 else 'draws'} of noise of standard deviation {noise_std:g}",
        *_aligned([header, *rows]),
    ]
    if len(ranked) > 1:
        lines.append(f"fits best, by {_plus_minus(best.gain(scored[ranked[1]]))} nats: {ranked[0]}")
    return "\n".join(lines)


def _plus_minus(estimate: "Estimate") -> str:
    error = "" if estimate.standard_error is None else f" ± {estimate.standard_error:.1f}"
    return f"{estimate.mean:.1f}{error}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Right-align all columns but the last one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return ["  ".join([*map(str.rjust, row, widths), row[-1]]) for row in rows]


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
