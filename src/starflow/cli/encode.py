"""`starflow encode`: map a clip to noise."""

from pathlib import Path

import click

from starflow.cli.common import SEED, input_fps_option, load_pipeline, model_options, start_loading
from starflow.errors import StarflowError, UsageError


@click.command()
@click.argument("clip")
@click.option("--prompt", default="", help="The clip's caption. [required]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("z.safetensors"),
    show_default=True,
    help="The safetensors file to write.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the noise on the latents.")
@input_fps_option
@model_options
def encode(
    clip: str,
    prompt: str,
    output: Path,
    seed: int,
    input_fps: float | None,
    model: str,
    device: str | None,
    dtype: str,
) -> None:
    """Map CLIP to the noise that the model generates it from; `starflow decode` is the inverse.

    \b
    starflow encode clip.mp4 --prompt "a red circle moves right" -o z.safetensors
    """
    if not prompt.strip():
        raise UsageError('give the caption with --prompt, such as "a red circle moves right"')
    if output.suffix != ".safetensors":
        raise UsageError(f"the noise is a safetensors file: name it .safetensors, not {output}")
    start_loading(model)

    from starflow.cli.clips import read_clip
    from starflow.likelihood.inversion import encode_clip, is_noise, save_noise

    if output.exists() and not is_noise(output):
        raise StarflowError(f"{output} exists and is not from starflow encode: remove it, or choose another name")
    pipeline = load_pipeline(model, device, dtype)
    noise = encode_clip(pipeline, read_clip(pipeline, clip, input_fps), prompt, seed=seed)
    save_noise(noise, output)
    z = noise.z.double()
    click.echo(f"{output}: noise {tuple(z.shape)}, mean {z.mean():.3f}, standard deviation {z.std():.3f}")
