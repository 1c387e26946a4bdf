"""`starflow decode`: the clip that noise becomes."""

import click

from starflow import __version__
from starflow.cli.common import load_pipeline, model_options
from starflow.errors import UsageError


@click.command()
@click.argument("noise")
@click.option("--prompt", help="Another caption than the one that the clip was encoded under.")
@click.option("-o", "--output", default="video.mp4", show_default=True, help="The video: .mp4, .gif, .webp or .png.")
@model_options
def decode(noise: str, prompt: str | None, output: str, model: str, device: str | None, dtype: str) -> None:
    """Map NOISE, a file of `starflow encode`, back to its clip, or under another caption to another.

    \b
    starflow decode z.safetensors -o clip.mp4
    starflow decode z.safetensors --prompt "a blue circle moves right" -o blue.mp4
    """  # noqa: D301 (click's own mark, a backspace, keeps the lines of the examples)
    if prompt is not None and not prompt.strip():
        raise UsageError("the prompt is empty: leave it out to decode under the caption of the file")

    from starflow.likelihood.inversion import decode_clip, load_noise
    from starflow.media.video import check_writable, write_video

    encoded = load_noise(noise)
    check_writable(output, encoded.num_frames)
    pipeline = load_pipeline(model, device, dtype)
    result = decode_clip(pipeline, encoded, prompt)
    frames = (result.frames[0] * 255).round().astype("uint8")
    shown = prompt or encoded.prompt
    metadata = {"software": f"starflow {__version__}", "prompt": shown, "noise": noise, "model": model, "dtype": dtype}
    written = write_video(output, frames, encoded.fps, metadata)
    click.echo(f"{written}: {len(frames)} frames at {encoded.fps:g} fps; {result.report}")
