"""`starflow benchmark sampling`: how fast and how exact the samplers are."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from starflow.cli.common import load_pipeline, model_options, require_extra
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
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"the folder of {path} does not exist: create it first")
    if plot is not None:
        require_extra("evaluate")

    from starflow.benchmark.sampling import as_json, measure
    from starflow.evaluation.machine import describe_machine
    from starflow.files import atomic_write

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
    from starflow.files import atomic_write

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


def _line(row: "Row") -> str:
    return (
        f"{row.sampler:<14}{row.num_frames:>7}{row.batch_size:>6}{row.latency_s:>9.2f}"
        f"{row.speedup_over_sequential:>8.1f}×{row.max_error:>9.4f}{row.max_residual:>9.4f}{row.sweeps:>7}"
        f"{row.evaluations_per_token:>12.1f}{row.peak_memory_mb:>7.0f}{row.time_to_first_frame_s:>12.2f}"
        f"{row.clip_s:>8.2f}"
    )


def _say(what: str) -> None:
    """What is being done, on one line that the next one replaces, where a person is looking."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{what}\r", nl=False, err=True)
