"""Where a session starts: the options `--start`, `--prompt`, `--image` and `--clip` of `play` and `rollout`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.given import FILE, load_given
from starflow.errors import UsageError

if TYPE_CHECKING:
    from starflow.pipeline.pipeline import StarFlowPipeline
    from starflow.pipeline.starts import Start


def start_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options: arguments of `load_starts`."""
    for option in (
        click.option("--clip", type=FILE, help="The first frames, from a clip."),
        click.option("--image", type=FILE, help="The first frame."),
        click.option("--prompt", help="The caption. [default: that of the start]"),
        click.option("--start", "name", help="A start of the model, or its file. [default: the first, if it has one]"),
    ):
        command = option(command)
    return command


def check_start(name: str | None, image: Path | None, clip: Path | None) -> None:
    """Raise UsageError if there are several starts."""
    if sum(each is not None for each in (name, image, clip)) > 1:
        raise UsageError("--start, --image and --clip exclude each other: give one of them")


def load_starts(
    pipeline: "StarFlowPipeline",
    model: str,
    name: str | None,
    prompt: str | None,
    image: Path | None,
    clip: Path | None,
) -> "list[Start]":
    """What the options ask for, or else all starts of the model, or else one without frames.

    Raises UsageError if there is no such start, StarflowError if a file cannot be read.
    """
    from dataclasses import replace

    from starflow.pipeline.starts import Start, find_start, load_start, starts_of
    from starflow.weights.models import resolve_model

    if image is not None or clip is not None:
        size_and_rate = {name: pipeline.config[name] for name in ("height", "width", "fps")}
        given = load_given(pipeline, size_and_rate, image, None, None, clip)
        frames = given["image"][None] if clip is None else given["extend"]
        return [Start(str(image or clip), prompt or "", frames)]
    folder = resolve_model(model)
    paths = starts_of(folder) if name is None else [find_start(folder, name)]
    starts = [load_start(path) for path in paths] or [Start("")]
    return starts if prompt is None else [replace(start, prompt=prompt) for start in starts]
