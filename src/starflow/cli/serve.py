"""`starflow serve`: an HTTP API that makes videos."""

import webbrowser
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.common import DTYPES, device_named, generation_options, require_extra, say, start_loading
from starflow.cli.fitting import fitting_options
from starflow.cli.lora import Lora, parse_named_loras
from starflow.errors import UsageError
from starflow.hardware.fitting import Fitting, require_fit
from starflow.serve.settings import GIB, MIB, Limits, ServeSettings

if TYPE_CHECKING:
    from starflow.hardware.memory import Request
    from starflow.pipeline.pipeline import StarFlowPipeline

DAY = 24 * 3600
DEFAULT_DATA = "starflow-data"


@click.command()
@click.option("--model", default="toyworld", show_default=True, help="A bundled model, a folder, or a hub id.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. Others than loopback need keys.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 is any free port.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DATA,
    show_default=True,
    help="For the jobs and the videos; nothing is written elsewhere.",
)
@click.option("--database", help="Such as postgresql+psycopg://…, for several servers. [default: SQLite in --data-dir]")
@click.option("--api-key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One key per line.")
@click.option("--workers", type=click.IntRange(1), help="Copies of the model. [default: 1]")
@click.option("--ray", metavar="ADDRESS", help="Run the workers on a Ray cluster: HOST:PORT of its head, or auto.")
@click.option("--min-workers", type=click.IntRange(1), help="With --ray, at least. [default: 1]")
@click.option("--max-workers", type=click.IntRange(1), help="With --ray, while jobs wait. [default: --min-workers]")
@click.option("--device", help="Such as cpu or cuda; each worker has its own GPU. [default: the best available]")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of the weights.")
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="NAME=PATH",
    callback=lambda _, __, values: parse_named_loras(values),
    help="A LoRA that clients may use by its name: a file, a folder or a hub id. It can be given several times.",
)
@click.option("--allow-origin", "origins", multiple=True, help="A web page that may use the API: https://example.org.")
@click.option("--allow-host", "hosts", multiple=True, help="Another name of this server; * for any.")
@click.option("--max-queue", type=click.IntRange(1), default=Limits.queued, show_default=True, help="Waiting jobs.")
@click.option("--max-batch", type=click.IntRange(1), default=Limits.batch, show_default=True, help="Made at once.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(0, min_open=True),
    default=Limits.seconds,
    show_default=True,
    help="Of a video.",
)
@click.option(
    "--max-upload", type=click.IntRange(1), default=Limits.upload_bytes // MIB, show_default=True, help="In MiB."
)
@click.option(
    "--rate-limit",
    type=click.IntRange(1),
    default=Limits.requests_per_minute,
    show_default=True,
    help="Requests per minute and key that make something.",
)
@click.option(
    "--keep-days",
    type=click.FloatRange(0, min_open=True),
    default=ServeSettings.keep_seconds / DAY,
    show_default=True,
    help="How long finished videos are kept.",
)
@click.option(
    "--keep-gib",
    type=click.FloatRange(0, min_open=True),
    default=ServeSettings.keep_bytes / GIB,
    show_default=True,
    help="Space for finished videos; the oldest are removed.",
)
@click.option("--open", "opens_page", is_flag=True, help="Open the page in the browser.")
@generation_options("num_frames", "fps", "guidance_scale", "tolerance")
@fitting_options
def serve(
    model: str,
    host: str,
    port: int,
    data_dir: Path,
    database: str | None,
    api_key_file: Path | None,
    workers: int | None,
    ray: str | None,
    min_workers: int | None,
    max_workers: int | None,
    device: str | None,
    dtype: str,
    loras: dict[str, str],
    origins: tuple[str, ...],
    hosts: tuple[str, ...],
    max_queue: int,
    max_batch: int,
    max_seconds: float,
    max_upload: int,
    rate_limit: int,
    keep_days: float,
    keep_gib: float,
    opens_page: bool,
    offload: Any,
    quantize: Any,
    cache_dtype: str | None,
    tiling: bool,
    **options: Any,
) -> None:
    """Serve a page and an HTTP API that make videos. The API has the shape of OpenAI's /v1/videos.

    The generation options replace the model's settings where a client sends none.

    \b
    starflow serve --open
    starflow serve --model starflow-v-7b --dtype bfloat16 --quantize int8 --workers 2
    starflow serve --lora sketch=runs/sketch/final --lora clay=runs/clay/final
    starflow serve --ray auto --max-workers 8
    starflow serve --host 0.0.0.0 --api-key-file keys.txt --allow-host videos.example.org
    """
    if ray is None and (min_workers or max_workers):
        raise UsageError("--min-workers and --max-workers need --ray; without it, give --workers")
    if ray is not None and workers:
        raise UsageError("with --ray, give --min-workers and --max-workers in place of --workers")
    require_extra("serve")
    if ray is not None:
        require_extra("ray")

    from starflow.serve.security import read_keys

    settings = ServeSettings(
        model=model,
        data_dir=data_dir,
        host=host,
        port=port,
        database=database,
        workers=workers or min_workers or 1,
        max_workers=max_workers,
        ray=ray,
        device=device,
        dtype=dtype,
        fitting=Fitting(offload, quantize, cache_dtype, tiling),
        loras=loras,
        options={name: value for name, value in options.items() if value is not None},
        keys={} if api_key_file is None else read_keys(api_key_file),
        origins=origins,
        hosts=hosts,
        keep_seconds=keep_days * DAY,
        keep_bytes=int(keep_gib * GIB),
        limits=Limits(
            queued=max_queue,
            batch=max_batch,
            seconds=max_seconds,
            upload_bytes=max_upload * MIB,
            requests_per_minute=rate_limit,
        ),
    )
    start_loading(model, settings.fitting, [Lora(source) for source in loras.values()])
    if ray is None:
        require_fit(model, device_named(device), settings.fitting, 1, lambda pipeline: _one_video(pipeline, settings))

    from starflow.serve.run import listen

    def announce(url: str) -> None:
        say(f"serving {settings.model_id} at {url}")
        if opens_page:  # in a thread, because a browser in the terminal does not return before it is closed
            Thread(target=open_page, args=(url,), daemon=True).start()

    listen(settings, announce)


def _one_video(pipeline: "StarFlowPipeline", settings: ServeSettings) -> "Request":
    """The request whose memory is checked: one video, with the settings for clients that choose none."""
    import torch

    from starflow.hardware.memory import Request
    from starflow.serve.decide import Decisions

    options = Decisions(settings, pipeline).defaults
    return Request(
        options["height"],
        options["width"],
        options["num_frames"] or pipeline.config.num_frames,
        guidance=options["guidance_scale"] > 1,
        dtype=getattr(torch, settings.dtype),
        frames_at_once=1,
    )


def open_page(url: str) -> None:
    """Open the page in the user's browser, or say that there is none."""
    if not webbrowser.open(url):
        say(f"no browser was found: open {url} yourself")
