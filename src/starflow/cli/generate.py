"""`starflow generate`: a video from a sentence, or one for each line of a file."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starflow import __version__
from starflow.cli.common import load_pipeline, model_options, sampling_options
from starflow.errors import UsageError

if TYPE_CHECKING:
    import torch

    from starflow.pipeline import StarFlowPipeline


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "-o",
    "--output",
    help="The video: .mp4, .gif, .webp or .png (frames). With --prompts, a folder.",
)
@click.option("--prompts", "prompts_file", type=click.Path(path_type=Path), help="A file of prompts, one a line.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed makes the same video."
)
@click.option("--num-frames", type=click.IntRange(1), help="Frames of the video; 1 is an image. [default: the model's]")
@click.option("--fps", type=click.FloatRange(0, min_open=True), help="Frames per second. [default: the model's]")
@click.option("--contact-sheet", type=click.Path(path_type=Path), help="Also write the frames side by side, as a PNG.")
@model_options
@sampling_options
def generate(
    prompt: str | None,
    output: str | None,
    prompts_file: Path | None,
    model: str,
    seed: int,
    guidance_scale: float | None,
    num_frames: int | None,
    fps: float | None,
    sampler: str | None,
    tolerance: float | None,
    contact_sheet: Path | None,
    device: str | None,
    dtype: str,
) -> None:
    r"""Make a video from the sentence PROMPT.

    \b
    starflow generate "a red circle moves right" -o clip.mp4
    starflow generate --prompts captions.txt -o clips/
    """
    prompts = _read_prompts(prompt, prompts_file)
    outputs = _output_paths(prompts, output, is_folder=prompts_file is not None)

    from starflow import video

    for path in outputs:
        video.check_writable(path, num_frames or 2)
    if contact_sheet is not None:
        video.check_writable(contact_sheet)
    pipeline = load_pipeline(model, device, dtype)
    num_frames = _allowed_num_frames(pipeline, num_frames)
    fps = pipeline.config.fps if fps is None else fps
    guidance_scale = pipeline.config.guidance_scale if guidance_scale is None else guidance_scale

    clips = []
    for index, (text, path) in enumerate(zip(prompts, outputs, strict=True)):
        start = time.perf_counter()
        settings: dict[str, Any] = {"num_frames": num_frames, "fps": fps, "guidance_scale": guidance_scale}
        settings |= {"sampler": sampler or pipeline.config.sampler, "tolerance": tolerance or pipeline.config.tolerance}
        result = pipeline(text, generator=_generator(seed + index), output_type="np", **settings)
        frames = (result.frames[0] * 255).round().astype("uint8")
        metadata = {"prompt": text, "seed": seed + index, "model": model, "dtype": dtype, **settings}
        written = video.write_video(path, frames, fps, {"software": f"starflow {__version__}", **metadata})
        clips.append(frames)
        height, width = frames.shape[1:3]
        seconds = time.perf_counter() - start
        click.echo(
            f"{written}: {width}×{height}, {len(frames)} frames at {fps:g} fps, {seconds:.1f} s; {result.report}"
        )
    if contact_sheet is not None:
        video.contact_sheet(clips, contact_sheet, labels=prompts)


def _read_prompts(prompt: str | None, prompts_file: Path | None) -> list[str]:
    if (prompt is None) == (prompts_file is None):
        raise UsageError("give a prompt, or a file of them with --prompts (and not both)")
    if prompt is not None:
        if not prompt.strip():
            raise UsageError('the prompt is empty: say what is to be seen, such as "a red circle moves right"')
        return [prompt]
    assert prompts_file is not None
    try:
        lines = prompts_file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{prompts_file} is not a text file") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise UsageError(f"{prompts_file} holds no prompts: write one a line")
    return prompts


def _output_paths(prompts: list[str], output: str | None, *, is_folder: bool) -> list[str]:
    """One path for each prompt; in a folder they are numbered and named after the prompts."""
    if not is_folder:
        return [output or "video.mp4"]
    folder = Path(output or "videos")
    if folder.suffix and not folder.is_dir():
        raise UsageError(f"with --prompts, -o must be a folder, not {folder}")
    return [str(folder / f"{index:03d}-{_slug(prompt)}.mp4") for index, prompt in enumerate(prompts)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "video"


def _generator(seed: int) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(seed)


def _allowed_num_frames(pipeline: "StarFlowPipeline", num_frames: int | None) -> int:
    """The number of frames asked for, or else the nearest that the VAE can make, said aloud."""
    wanted = pipeline.config.num_frames if num_frames is None else num_frames
    nearest = pipeline.codec.nearest_num_frames(wanted)
    if nearest != wanted:
        click.echo(f"this model's VAE cannot make {wanted} frames: making {nearest}", err=True)
    return nearest
