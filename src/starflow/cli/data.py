"""`starflow data`: check a source of clips before training, and encode it to latents."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.common import require_extra, say
from starflow.cli.quiet import hide_loading_bars

if TYPE_CHECKING:
    from starflow.data.check import Report
    from starflow.data.clip import ClipSource
    from starflow.train.config import FlowTrainConfig, LoraTrainConfig

LISTED = 20  # lines of each list in the text of a report; JSON has them all
WORKERS_HELP = "Processes that decode clips; 0: none. [default: one for each CPU core, at most 8; none for few clips]"
MAX_WORKERS, CLIPS_PER_WORKER = 8, 16  # a process takes seconds to start


@click.group()
def data() -> None:
    """Check clips before training, and encode them to latents.

    SOURCE is a folder of clips with captions beside them, a .csv, .jsonl or .parquet table, a folder with such a table
    named metadata, or WebDataset shards, such as shards/{000..009}.tar or s3://bucket/*.tar.
    """


@data.command()
@click.argument("source")
@click.option("--config", type=click.Path(), help="A training config: counts its buckets and the captions it cuts off.")
@click.option("--sheet", type=click.Path(path_type=Path), help="A .png file for frames of the first clips.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--workers", type=click.IntRange(0), help=WORKERS_HELP)
def check(source: str, config: str | None, sheet: Path | None, as_json: bool, workers: int | None) -> None:
    """Decode every clip of SOURCE, and say what is there.

    The report has counts, seconds, sizes, rates and duplicates, and names whatever cannot be used, with the reason.

    \b
    starflow data check clips/ --config mine.yaml --sheet clips.png
    """
    require_extra("train")
    from starflow.data.check import check_source

    clips = _source(source)
    clip_format = cut_off = None
    if config is not None:
        hide_loading_bars()
        from starflow.train.flow_data import caption_cut_off, open_format

        loaded = _config(config)
        opened = open_format(loaded)
        clip_format, cut_off = opened.clip_format, caption_cut_off(loaded, opened)
    report = check_source(clips, clip_format, cut_off, _num_workers(workers, len(clips)))
    click.echo(json.dumps(report.summary, indent=2, ensure_ascii=False) if as_json else _text(report))
    if sheet is not None:
        _write_sheet(report, sheet)


@data.command()
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder for the latents.")
@click.option("--config", type=click.Path(), help="A training config, whose data SOURCE replaces.")
@click.option("--model", default="toyworld", show_default=True, help="Without --config: the model to be trained.")
@click.option("--device", help="Where the autoencoder runs, instead of the config's loop.device.")
@click.option("--workers", type=click.IntRange(0), help=WORKERS_HELP)
def encode(source: str, output: Path, config: str | None, model: str, device: str | None, workers: int | None) -> None:
    """Encode the clips of SOURCE to latents, so that training starts at once with latents=OUTPUT.

    With a config whose text encoder is frozen, as for a LoRA, the captions are encoded too. The command can be
    interrupted at any moment, and goes on where it was. A clip whose file, caption, format or autoencoder has changed
    is encoded again; the others are not. Several processes share the work.

    \b
    starflow data encode clips/ -o latents/ --config mine.yaml
    torchrun --nproc-per-node 8 -m starflow data encode clips/ -o latents/ --config mine.yaml --device cuda
    """
    require_extra("train")
    hide_loading_bars()
    from starflow.train.config import LoraTrainConfig
    from starflow.train.flow_data import open_format, open_mixture, open_texts
    from starflow.train.models import load_text
    from starflow.train.processes import training_processes

    clips, loaded = _source(source), _config(config, model)
    loaded.latents, loaded.data_workers = str(output), _num_workers(workers, len(clips))
    loaded.loop.device = device or loaded.loop.device
    with training_processes(loaded.loop.device):
        opened = open_format(loaded)
        mixture = open_mixture(loaded, clips, opened)
        text = load_text(loaded, opened.init)
        if text is not None and (isinstance(loaded, LoraTrainConfig) or not loaded.train_text_encoder):
            tokenizer, encoder = text
            open_texts(loaded, mixture, opened.settings, tokenizer, encoder.to(loaded.loop.device))
    say(f"latents: {output}; train with latents={output}")


def _source(source: str) -> "ClipSource":
    from starflow.data.sources import build_source, source_config

    return build_source(source_config(source))


def _config(path: str | None, model: str | None = None) -> "FlowTrainConfig | LoraTrainConfig":
    """The config of a flow or a LoRA; without a path, that of fine-tuning a model."""
    from starflow.config import config_class, load_config
    from starflow.train.config import FlowTrainConfig, LoopConfig, LoraTrainConfig

    classes: Sequence[type[FlowTrainConfig | LoraTrainConfig]] = (FlowTrainConfig, LoraTrainConfig)
    if path is not None:
        return load_config(config_class(path, classes), path)
    return FlowTrainConfig(output="", data={}, init=model, loop=LoopConfig(num_steps=0, decay_steps=0))


def _num_workers(asked: int | None, num_clips: int) -> int:
    return min(os.cpu_count() or 1, MAX_WORKERS, num_clips // CLIPS_PER_WORKER) if asked is None else asked


def _text(report: "Report") -> str:
    """The report for the terminal."""
    about = report.summary
    lines = [f"{about['videos']} videos ({about['seconds']:g} s) and {about['pictures']} pictures"]
    if about["frames"]:
        lines.append("frames of a video: {} to {}".format(*about["frames"]))
    for key, title in (("sizes", "sizes"), ("aspect_ratios", "nearest aspect ratios"), ("rates", "frames per second")):
        if about[key]:
            lines.append(f"{title}: {_counted(about[key])}")
    if report.buckets is not None:
        lines.append("buckets:")
        lines += [f"  {bucket.name}: {number} clips" for bucket, number in report.buckets.items()]
    for key, title in (
        ("left_out", "left out"),
        ("duplicates", "duplicates"),
        ("long_captions", "captions longer than the text encoder takes"),
    ):
        lines += _listed(title, about[key])
    return "\n".join(lines)


def _counted(counts: dict[str, int]) -> str:
    shown = [f"{value} ({number})" for value, number in list(counts.items())[:LISTED]]
    return ", ".join(shown) + (f" and {len(counts) - LISTED} more" if len(counts) > LISTED else "")


def _listed(title: str, items: list[str] | None) -> list[str]:
    if items is None:
        return [f"{title}: not checked, as there is no text encoder yet; --config names one"]
    more = [f"  … and {len(items) - LISTED} more: --json lists all"] if len(items) > LISTED else []
    return [f"{title}: {len(items) or 'none'}", *(f"  {item}" for item in items[:LISTED]), *more]


def _write_sheet(report: "Report", path: Path) -> None:
    from starflow.errors import StarflowError
    from starflow.media.video import contact_sheet

    shown: list[Any] = [clip for clip in report.clips if clip.thumbnails is not None]
    if not shown:
        raise StarflowError("there is no contact sheet, as no clip can be read")
    contact_sheet([clip.thumbnails for clip in shown], path, [f"{clip.name}: {clip.captions[0]}" for clip in shown])
    say(f"contact sheet: {path}")
