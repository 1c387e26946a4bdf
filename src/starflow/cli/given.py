"""The images and clips that `starflow generate` is given: their options, and how they are read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.common import input_fps_option, say
from starflow.errors import UsageError

if TYPE_CHECKING:
    from starflow.pipeline.pipeline import StarFlowPipeline

FILE = click.Path(exists=True, path_type=Path)


def given_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--image`, `--last-image`, `--video` and `--extend`, each a path or None, and `--input-fps`."""
    for option in (
        input_fps_option,
        click.option("--extend", type=FILE, help="A clip to continue; --num-frames and --seconds include it."),
        click.option("--video", type=FILE, help="A clip to edit; the prompt says how: 'make the circle blue'."),
        click.option(
            "--last-image",
            type=FILE,
            help="The image to end with. The bundled model meets it only roughly without --image.",
        ),
        click.option("--image", type=FILE, help="The image to begin with."),
    ):
        command = option(command)
    return command


def load_given(
    pipeline: "StarFlowPipeline",
    options: Mapping[str, Any],
    image: Path | None,
    last_image: Path | None,
    video: Path | None,
    extend: Path | None,
    input_fps: float | None = None,
) -> dict[str, Any]:
    """Read files as arguments of the pipeline, fitted to the size and rate of `options`; changes are reported.

    Raises:
        StarflowError: a file cannot be read.
        UsageError: `input_fps` is given, but no folder of frames.
    """
    from starflow.media.loading import load_clip, load_picture

    if input_fps is not None and video is None and extend is None:
        raise UsageError("--input-fps is the frame rate of a folder of frames given as --video or --extend")
    size, fps = (options["height"], options["width"]), options["fps"]
    given: dict[str, Any] = {}
    for name, path in (("image", image), ("last_image", last_image)):
        if path is not None:
            given[name] = load_picture(path, *size, say)
    for name, path in (("video", video), ("extend", extend)):
        if path is not None:
            clip = load_clip(path, *size, fps, say, folder_fps=input_fps)
            spare = len(clip) - pipeline.codec.largest_num_frames(len(clip))
            # A clip to continue keeps its end, a clip to edit its beginning.
            end = "first" if name == "extend" else "last"
            if spare:
                say(f"{path} has {len(clip)} frames: the {end} {spare} are left out to fit the VAE")
            given[name] = clip[spare:] if name == "extend" else clip[: len(clip) - spare]
    return given
