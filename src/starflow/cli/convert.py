"""`starflow convert`: convert a released checkpoint to a folder for `--model`."""

import time
from pathlib import Path

import click

from starflow.cli.common import DTYPES, say
from starflow.errors import UsageError


@click.command()
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option(
    "--config",
    help="starflow-v-7b, starflow-3b, or a configuration file of the released project. [default: by the file's name]",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the weights. [default: the checkpoint's]")
@click.option("--vae", help="The VAE to use: a folder or a hub id. [default: the configuration's]")
@click.option("--text-encoder", help="The T5 encoder to use: a folder or a hub id. [default: the configuration's]")
def convert(
    checkpoint: str, output: Path, config: str | None, dtype: str | None, vae: str | None, text_encoder: str | None
) -> None:
    """Convert CHECKPOINT, a released .pth file, to a folder for --model.

    CHECKPOINT may also be a file on the hub. The VAE and the text encoder are not copied: the folder names their
    place, and they are loaded from there.

    A folder of torch.distributed.checkpoint must first be converted to a file, as in the last example. Do this only if
    you trust its origin: reading its index can run code.

    \b
    starflow convert starflow-v_7B_t2v_caus_480p_v3.pth -o starflow-v-7b --dtype bfloat16
    starflow convert apple/starflow/starflow_3B_t2i_256x256.pth -o starflow-3b
    python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth
    """
    import torch

    from starflow.convert.convert import convert as convert_checkpoint
    from starflow.convert.presets import PRESETS, preset_of_file, released_model

    start = time.perf_counter()
    config = config or preset_of_file(checkpoint)
    if config is None:
        raise UsageError(
            f"{checkpoint} is not named like a released model: add --config {' or '.join(PRESETS)}, or a file"
        )
    model = released_model(config, vae, text_encoder)
    written = convert_checkpoint(
        _local_path(checkpoint), model, output, None if dtype is None else getattr(torch, dtype)
    )
    click.echo(
        f"{output}: {written.num_parameters:,} parameters, {written.num_bytes / 1e9:.2f} GB in {written.num_files} "
        f"file{'s' if written.num_files > 1 else ''}, {time.perf_counter() - start:.1f} s; it uses the VAE {model.vae} "
        f"and the text encoder {model.text_encoder}"
    )
    if model.license is not None:
        say(model.license)


def _local_path(checkpoint: str) -> Path:
    """The path itself if it exists or cannot be on the hub; otherwise the file downloaded from the hub."""
    from starflow.weights.hub import hub_file, say_download

    owner, _, rest = checkpoint.partition("/")
    repository, _, filename = rest.partition("/")
    if Path(checkpoint).exists() or not filename or not owner or checkpoint.startswith((".", "~")):
        return Path(checkpoint)
    say_download(f"{owner}/{repository}", filename, copies=1)
    return hub_file(f"{owner}/{repository}", filename)
