"""`starflow export`: write the flow and the denoiser of a model as a checkpoint in the released format."""

import time
from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The .pth file to write.")
def export(model: str, output: Path) -> None:
    """Write MODEL, a folder or a bundled model, as a .pth file that the released project loads.

    This is the exact inverse of `starflow convert`.

    \b
    starflow export starflow-v-7b -o starflow-v.pth
    """
    from starflow.convert.convert import export as export_checkpoint
    from starflow.weights.models import resolve_model

    start = time.perf_counter()
    written = export_checkpoint(Path(resolve_model(model)), output)
    click.echo(
        f"{output}: {written.num_parameters:,} parameters, {written.num_bytes / 1e9:.2f} GB, "
        f"{time.perf_counter() - start:.1f} s"
    )
