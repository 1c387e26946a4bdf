"""`starflow benchmark`: how fast and how exact the samplers are, and what a larger model would take."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from starflow.cli.common import DTYPES, device_named, load_pipeline, model_options, require_extra
from starflow.errors import UsageError

if TYPE_CHECKING:
    from starflow.benchmark.sampling import Row


class Numbers(click.ParamType):
    """Positive whole numbers between commas."""

    name = "N,N,…"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(number) for number in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} is not a list of positive numbers such as 1,4", param, ctx)
        return numbers


@click.group()
def benchmark() -> None:
    """Measure a model's speed on this machine."""


@benchmark.command()
@click.option("--frames", type=Numbers(), default="17,81,241", show_default=True, help="Lengths of the clips.")
@click.option("--batch-sizes", type=Numbers(), default="1,4", show_default=True, help="Clips made at once.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Seconds are medians over these.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all rows to this file.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw them into this PNG.")
@model_options
def sampling(
    frames: tuple[int, ...],
    batch_sizes: tuple[int, ...],
    repeats: int,
    seed: int,
    json_path: Path | None,
    plot: Path | None,
    model: str,
    device: str | None,
    dtype: str,
) -> None:
    """Sequential sampling, the published block-wise Jacobi (blocks of 32 then 128, and of 64 then 512), and ours.

    All on the same weights and noise, by turns. Error is the largest difference to sequential sampling; seconds are
    those from noise to latents. Minutes on two cores.

    \b
    starflow benchmark sampling --json sampling.json --plot sampling.png
    starflow benchmark sampling --frames 17 --batch-sizes 1 --repeats 9
    """  # noqa: D301 (click's own mark, a backspace, keeps the lines of the examples)
    for path in (json_path, plot):
        if path is not None:
            require_folder(path)
    if plot is not None:
        require_extra("evaluate")

    from starflow.benchmark.sampling import as_json, measure
    from starflow.evaluation.machine import describe_machine
    from starflow.media.files import atomic_write

    pipeline = load_pipeline(model, device, dtype)
    for num_frames in frames:
        pipeline.codec.num_latent_frames(num_frames)  # raises if there is no such clip
    about = describe_machine(pipeline.device)
    machine = f"{about['gpu'] or about['cpu']}, {about['cores']} cores, {about['threads']} threads"
    click.echo(machine)
    click.echo(HEADER)
    rows: list[Row] = []
    for num_frames in frames:
        for batch_size in batch_sizes:
            measured = measure(pipeline, num_frames, batch_size, repeats, seed, machine, _say)
            rows += measured
            for row in measured:
                click.echo(_line(row))
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(as_json(rows), indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        from starflow.benchmark.picture import draw

        draw(rows, plot)


HEADER = (
    f"{'sampler':<14}{'frames':>7}{'batch':>6}{'seconds':>9}{'speed-up':>9}{'error':>9}{'residual':>9}{'sweeps':>7}"
    f"{'evals/token':>12}{'MB':>7}{'1st frame s':>12}{'clip s':>8}"
)


@benchmark.command()
@click.option(
    "--windows", type=Numbers(), default="1,2,4,8,16,32", show_default=True, help="Tokens at once; 1 is sequential."
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Seconds are the least of these.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
@click.option("--save", is_flag=True, help="Store the fastest with the model, which must be a folder.")
@model_options
def windows(
    windows: tuple[int, ...], repeats: int, seed: int, save: bool, model: str, device: str | None, dtype: str
) -> None:
    """How many tokens at once are fastest on this machine, in the deep block and in the shallow ones.

    One clip of the model's length, by turns. What is fastest is a property of the model and the machine, and is the
    model's to say (block_size and shallow_block_size in model_index.json): nothing is guessed while sampling.

    \b
    starflow benchmark windows
    starflow benchmark windows --model FOLDER --save
    """  # noqa: D301 (click's own mark, a backspace, keeps the lines of the examples)
    if save and not Path(model).is_dir():
        raise UsageError(f"--save writes into the model's folder, and {model} is none: give a folder")

    from starflow.benchmark.windows import fastest, measure_windows
    from starflow.media.files import atomic_write

    pipeline = load_pipeline(model, device, dtype)
    rows = measure_windows(pipeline, windows, repeats, seed, _say)
    click.echo(f"{'blocks':<9}{'window':>7}{'seconds':>9}{'sweeps':>8}{'evals/token':>12}{'sweep/pass':>11}")
    for row in rows:
        click.echo(
            f"{row.blocks:<9}{row.window:>7}{row.seconds:>9.3f}{row.sweeps:>8}{row.evaluations_per_token:>12.1f}"
            f"{row.sweep_over_pass:>11.2f}"
        )
    best = {"block_size": fastest(rows, "deep"), "shallow_block_size": fastest(rows, "shallow")}
    click.echo(f"fastest: {best['block_size']} in the deep block, {best['shallow_block_size']} in the shallow ones")
    if save:
        index = Path(model) / "model_index.json"
        settings = json.loads(index.read_text(encoding="utf-8")) | best
        with atomic_write(index) as temporary:
            temporary.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@benchmark.command()
@click.option(
    "--model",
    default="starflow-v-7b",
    show_default=True,
    help="What to project: a released model, a folder, or a hub id. Its configuration is all that is read.",
)
@click.option("--num-frames", type=click.IntRange(1), help="Of the clip. [default: the model's]")
@click.option("--device", help="cpu, cuda, mps, … [default: the best there is]")
@click.option("--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True, help="Of the weights.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Seconds are the least of these.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the projection to this file.")
def projection(
    model: str, num_frames: int | None, device: str | None, dtype: str, repeats: int, json_path: Path | None
) -> None:
    """What a clip of a large model would take on this device, before anybody has its weights.

    Passes through its blocks are timed here, with random weights of its sizes; how many of them a clip takes is what
    the bundled model takes, with windows of the same share of a frame. The result is a projection, not a measurement.

    \b
    starflow benchmark projection --device cuda
    starflow benchmark projection --model starflow-3b --json projection.json
    """  # noqa: D301 (click's own mark, a backspace, keeps the lines of the examples)
    if json_path is not None:
        require_folder(json_path)

    import torch

    from starflow.benchmark.projection import count_sweeps, project
    from starflow.evaluation.machine import describe_machine
    from starflow.hardware.architecture import load_architecture
    from starflow.media.files import atomic_write

    on_device = device_named(device)
    architecture = load_architecture(model)
    frames = num_frames or architecture.pipeline().config.num_frames
    counts = count_sweeps(load_pipeline("toyworld", "cpu", "float32"), 0, _say)
    projected = project(architecture, counts, frames, on_device, getattr(torch, dtype), repeats, _say)
    about = describe_machine(on_device)
    click.echo(f"{model}, random weights in {dtype}, {about['gpu'] or about['cpu']}")
    click.echo(f"one pass over {projected.num_frames} frames, {projected.num_tokens} tokens: {projected.floor_s:.3g} s")
    click.echo("seconds are projected: measured sweeps of this model, as many as the bundled model takes")
    click.echo(
        f"{'window':>7}{'sweep s':>10}{'sweeps':>9}{'deep s':>10}{'shallow s':>11}{'seconds':>10}{'of passes':>11}"
    )
    for row in projected.rows:
        click.echo(
            f"{row.window:>7}{row.sweep_s:>10.4f}{row.sweeps:>9.0f}{row.deep_s:>10.2f}{row.shallow_s:>11.2f}"
            f"{row.seconds:>10.2f}{row.seconds / projected.floor_s:>10.1f}×"
        )
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(asdict(projected), indent=2) + "\n", encoding="utf-8")


def _line(row: "Row") -> str:
    return (
        f"{row.sampler:<14}{row.num_frames:>7}{row.batch_size:>6}{row.latency_s:>9.2f}"
        f"{row.speedup_over_sequential:>8.1f}×{row.max_error:>9.4f}{row.max_residual:>9.4f}{row.sweeps:>7}"
        f"{row.evaluations_per_token:>12.1f}{row.peak_memory_mb:>7.0f}{row.time_to_first_frame_s:>12.2f}"
        f"{row.clip_s:>8.2f}"
    )


def require_folder(path: Path) -> None:
    """Raises UsageError if there is no folder for a file to be written into, before minutes of measuring."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of {path} does not exist: create it first")


def _say(what: str) -> None:
    """What is being done, on one line that the next one replaces, where a person is looking."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{what}\r", nl=False, err=True)
