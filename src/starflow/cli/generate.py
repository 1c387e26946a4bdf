"""`starflow generate`: a video from a sentence, and an image or a clip if given; or one per line of a file."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.common import (
    MAX_SEED,
    SEED,
    FiniteFloat,
    device_named,
    generation_options,
    load_pipeline,
    model_options,
    say,
    start_loading,
)
from starflow.cli.fitting import fitting_options
from starflow.cli.given import given_options, load_given
from starflow.cli.lora import Lora, lora_option
from starflow.cli.outputs import output_of, outputs_in_folder
from starflow.cli.progress import StageLines, with_progress
from starflow.errors import UsageError
from starflow.hardware.fitting import Fitting, require_fit
from starflow.hardware.ranks import Rank, joined
from starflow.media.files import SOFTWARE
from starflow.media.prompts import normalize_prompt, read_prompt_lines
from starflow.pipeline.options import Options

if TYPE_CHECKING:
    import torch

    from starflow.hardware.memory import Request
    from starflow.media.frames import Frames
    from starflow.pipeline.pipeline import StarFlowPipeline
    from starflow.pipeline.stages import VideoStream


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "-o",
    "--output",
    help="The video: .mp4, .gif, .webp or .png (frames); of several videos, their folder. A file that starflow made is "
    "replaced, any other is kept. [default: video.mp4 or videos/]",
)
@click.option("--prompts", "prompts_file", type=click.Path(path_type=Path), help="A file with one prompt per line.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Videos of each prompt.")
@click.option(
    "--name",
    help="Names of the videos in the folder, with {prompt}, {slug}, {number} (of the prompt) and {index} (of the "
    "sample), such as '{prompt}-{index}'. [default: '{number}-{slug}', with samples '{number}-{slug}-{index}']",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=SEED,
    help="Seed of the noise: the same seed makes the same video.",
)
@click.option(
    "--seconds",
    type=FiniteFloat(0, min_open=True),
    help="Length of the video in seconds, instead of --num-frames.",
)
@click.option("--contact-sheet", type=click.Path(path_type=Path), help="Also write a PNG of frames side by side.")
@model_options
@lora_option
@click.option("--size", help="Width and height in pixels, such as 848x480. [default: the model's]")
@click.option("--aspect-ratio", help="Such as 9:16, at the model's area, instead of --size.")
@click.option("--stream", is_flag=True, help="Write an .mp4 that can be played while it grows.")
@given_options
@generation_options("num_frames", "fps", "guidance_scale", "sampler", "tolerance", "context")
@fitting_options
def generate(
    prompt: str | None,
    output: str | None,
    prompts_file: Path | None,
    samples: int,
    name: str | None,
    model: str,
    loras: list[Lora],
    seed: int,
    stream: bool,
    image: Path | None,
    last_image: Path | None,
    video: Path | None,
    extend: Path | None,
    input_fps: float | None,
    contact_sheet: Path | None,
    device: str | None,
    dtype: str,
    offload: Any,
    quantize: Any,
    cache_dtype: str | None,
    tiling: bool,
    **asked: Any,
) -> None:
    """Make a video from the sentence PROMPT.

    \b
    starflow generate "a green square moves left" -o clip.mp4
    starflow generate "a red circle moves right" --image first.png -o clip.mp4
    starflow generate "make the circle blue" --video clip.mp4 -o blue.mp4
    starflow generate "a red circle moves right" --extend clip.mp4 --seconds 6 -o longer.mp4
    starflow generate --prompts captions.txt -o clips/
    starflow generate "a dog runs" --lora runs/style/final:0.8 -o dog.mp4
    starflow generate --prompts captions.txt -o clips/ --samples 5 --name "{prompt}-{index}"
    torchrun --nproc-per-node 2 -m starflow generate "a corgi" --model starflow-v-7b -o corgi.mp4
    """
    prompts = _read_prompts(prompt, prompts_file)
    if prompts_file is None and samples == 1 and name is None:
        outputs = output_of(prompts[0], output)
    else:
        outputs = outputs_in_folder(prompts, samples, output, name)
    for one, other in (("num_frames", "seconds"), ("size", "aspect_ratio")):
        if asked[one] is not None and asked[other] is not None:
            raise UsageError(f"give --{one.replace('_', '-')} or --{other.replace('_', '-')}, not both")
    rank = Rank.of_this_process()
    shared = rank.size > 1 and prompts_file is None  # by all processes; prompts of a file are distributed instead
    if contact_sheet is not None and rank.size > 1 and not shared:
        raise UsageError("--contact-sheet needs all videos in one process: leave it out, or start one process")

    start = time.perf_counter()
    fitting = Fitting(offload, quantize, cache_dtype, tiling)
    start_loading(model, fitting, loras)

    from starflow.media.video import check_writable
    from starflow.media.video import contact_sheet as write_contact_sheet

    paths = {"image": image, "last_image": last_image, "video": video, "extend": extend}
    for _, path in outputs:
        if any(given is not None and given.resolve() == Path(path).resolve() for given in paths.values()):
            raise UsageError(f"{path} is given as an input: choose another name with -o")
        check_writable(path, asked["num_frames"] or 2, fps=asked["fps"], growing=stream)
    if contact_sheet is not None:
        check_writable(contact_sheet)
    on_device = device_named(device, rank)

    def request_for(pipeline: "StarFlowPipeline") -> "Request":
        return _request(pipeline, _options(pipeline, **asked), paths, dtype, stream=stream)

    require_fit(model, on_device, fitting, rank.size if shared else 1, request_for)
    with joined(rank, on_device) if shared else nullcontext() as mesh:
        pipeline = load_pipeline(model, on_device, dtype, fitting, mesh, loras)
        if rank.rank == 0:
            say(f"{model}: loaded in {time.perf_counter() - start:.1f} s")
        else:
            pipeline.set_progress_bar_config(disable=True)
        options = _options(pipeline, tell=say, **asked)
        given = load_given(pipeline, options, **paths, input_fps=input_fps)
        window = pipeline.codec.num_latent_frames(pipeline.config.num_frames)
        about = {"software": SOFTWARE, "model": model, "dtype": dtype, **options}
        about |= {name: str(path) for name, path in paths.items() if path is not None}
        about |= {"lora": [str(lora) for lora in loras]} if loras else {}
        about |= {"quantize": quantize} if quantize else {}
        about |= {"cache_dtype": cache_dtype} if cache_dtype else {}

        rows = []
        jobs = list(enumerate(outputs)) if shared else rank.share(outputs)
        for index, (text, path) in with_progress(jobs, lambda job: job[1].path) if rank.rank == 0 else jobs:
            metadata = about | {"prompt": text, "seed": (seed + index) % (MAX_SEED + 1)}
            lines = StageLines(path)
            frames = pipeline.stream(
                text,
                output_type="np",
                frames_at_once=1 if stream else window,
                generator=_generator(metadata["seed"]),
                callback_on_step_end=lines.on_latent_frame if rank.rank == 0 else None,
                **options,
                **given,
            )
            lines.num_latent_frames = frames.num_latent_frames
            if shared and rank.rank > 0:
                deque(frames, maxlen=0)  # this process takes part; the first one writes
            else:
                rows.append(_make(frames, path, metadata, lines, growing=stream))
        if contact_sheet is not None and rows:
            write_contact_sheet(rows, contact_sheet, labels=[text for text, _ in outputs])


def _options(
    pipeline: "StarFlowPipeline",
    *,
    seconds: float | None,
    size: str | None,
    aspect_ratio: str | None,
    tell: Callable[[str], None] = lambda _: None,
    **asked: Any,
) -> dict[str, Any]:
    """The options of the pipeline, with the model's settings as defaults; changes are reported to `tell`."""
    asked |= _size(pipeline, size, aspect_ratio)
    options: Any = Options(**asked).with_defaults(pipeline.config)
    num_frames = options.num_frames if seconds is None else round(seconds * options.fps)
    options = replace(options, num_frames=_allowed_num_frames(pipeline, num_frames, tell))
    return {name: getattr(options, name) for name in (*asked, "height", "width")}


def _request(
    pipeline: "StarFlowPipeline", options: dict[str, Any], paths: dict[str, Path | None], dtype: str, *, stream: bool
) -> "Request":
    """The request whose memory is checked; clips given are assumed to be as long as those of the model."""
    import torch

    from starflow.hardware.memory import Request

    trained = pipeline.config.num_frames
    num_frames = options["num_frames"] or (2 * trained - 1 if paths["extend"] else trained)
    of_clip = pipeline.codec.num_latent_frames(trained)
    hidden = of_clip if paths["video"] else int(paths["last_image"] is not None)
    return Request(
        options["height"],
        options["width"],
        num_frames,
        guidance=options["guidance_scale"] > 1,
        dtype=getattr(torch, dtype),
        frames_at_once=1 if stream else None,
        given=of_clip if paths["extend"] else hidden + int(paths["image"] is not None),
        hidden=hidden,
    )


def _make(stream: "VideoStream", path: str, metadata: dict[str, Any], lines: StageLines, *, growing: bool) -> "Frames":
    """Write a video while it is made; return the frames for the contact sheet."""
    import numpy as np
    from tqdm import tqdm

    from starflow.media import video
    from starflow.media.frames import from_unit
    from starflow.media.sheet import COLUMNS

    start = time.perf_counter()
    metadata = metadata | {"num_frames": stream.num_frames}
    seconds, row = [], []
    in_row = set(np.linspace(0, stream.num_frames - 1, COLUMNS).round())

    def images() -> Iterator["Frames"]:
        for frame in stream:
            seconds.append(time.perf_counter() - start)
            lines("denoising and decoding: frame", frame.index + 1, stream.num_frames)
            image = from_unit(frame.image)
            if frame.index in in_row:
                row.append(image)
            yield image

    with stream:
        try:
            if growing:
                written = video.write_growing(path, images(), stream.fps, metadata)
            else:
                written = video.write_frames(path, images(), stream.num_frames, stream.fps, metadata)
        except KeyboardInterrupt:
            if growing:
                say(f"{path}: the first {len(seconds)} of {stream.num_frames} frames")
            raise
    height, width = row[0].shape[:2]
    length, wait = "an image", ""
    if stream.num_frames > 1:
        length = f"{len(seconds)} frames at {stream.fps:g} fps"
        wait = f" (the first frame after {seconds[0]:.1f} s)"
    with tqdm.external_write_mode():  # above the bar over all videos
        click.echo(f"{written}: {width}×{height}, {length}, {time.perf_counter() - start:.1f} s{wait}; {stream.report}")
    return np.stack(row)


def _read_prompts(prompt: str | None, prompts_file: Path | None) -> list[str]:
    if (prompt is None) == (prompts_file is None):
        raise UsageError("give a prompt, or a file of prompts with --prompts, not both")
    if prompt is not None:
        if not (normalized := normalize_prompt(prompt)):
            raise UsageError('the prompt is empty: describe the video, such as "a red circle moves right"')
        return [normalized]
    assert prompts_file is not None
    return [normalize_prompt(line) for _, line in read_prompt_lines(prompts_file)]


def _generator(seed: int) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(seed)


def _size(pipeline: "StarFlowPipeline", size: str | None, aspect_ratio: str | None) -> dict[str, int]:
    """Height and width as given, or those of the aspect ratio at the model's area; empty if neither is given."""
    from starflow.media.sizes import parse_size, size_of_aspect_ratio

    if size is not None:
        width, height = parse_size(size)
    elif aspect_ratio is not None:
        side = (pipeline.config.width * pipeline.config.height) ** 0.5
        width, height = size_of_aspect_ratio(aspect_ratio, side, pipeline.codec.spatial_factor)
    else:
        return {}
    return {"height": height, "width": width}


def _allowed_num_frames(
    pipeline: "StarFlowPipeline", num_frames: int | None, tell: Callable[[str], None]
) -> int | None:
    """The nearest number of frames that the VAE can make; a change is reported to `tell`."""
    if num_frames is None:
        return None
    nearest = pipeline.codec.nearest_num_frames(num_frames)
    if nearest != num_frames:
        tell(f"this model's VAE cannot make {num_frames} frames: making {nearest}")
    return nearest
