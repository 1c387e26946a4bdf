"""`starflow decode`: map noise to a clip."""

import click

from starflow.cli.common import load_pipeline, model_options, start_loading
from starflow.errors import UsageError


@click.command()
@click.argument("noise")
@click.option("--prompt", help="Another caption. [default: the one in the file]")
@click.option("-o", "--output", default="video.mp4", show_default=True, help="The video: .mp4, .gif, .webp or .png.")
@model_options
def decode(noise: str, prompt: str | None, output: str, model: str, device: str | None, dtype: str) -> None:
    """Map NOISE, a file of `starflow encode`, back to its clip, or with --prompt to another clip.

    \b
    starflow decode z.safetensors -o clip.mp4
    starflow decode z.safetensors --prompt "a blue circle moves right" -o blue.mp4
    """
    if prompt is not None and not prompt.strip():
        raise UsageError("the prompt is empty: leave --prompt out to use the caption in the file")
    start_loading(model)

    from starflow.likelihood.inversion import decode_clip, load_noise
    from starflow.media.files import SOFTWARE
    from starflow.media.frames import from_unit
    from starflow.media.video import check_writable, write_video

    encoded = load_noise(noise)
    check_writable(output, encoded.num_frames, fps=encoded.fps)
    pipeline = load_pipeline(model, device, dtype)
    prompt = prompt or encoded.prompt
    result = decode_clip(pipeline, encoded, prompt)
    frames = from_unit(result.frames[0])
    metadata = {"software": SOFTWARE, "prompt": prompt, "noise": noise, "model": model, "dtype": dtype}
    written = write_video(output, frames, encoded.fps, metadata)
    click.echo(f"{written}: {len(frames)} frames at {encoded.fps:g} fps; {result.report}")
