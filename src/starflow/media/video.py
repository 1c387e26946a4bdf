"""Reading and writing videos and images (PyAV, Pillow).

A clip is a uint8 array (F, height, width, 3) in RGB, with a frame rate in frames per second, or 0 for a still image.

The extension of a path gives the format: `.mp4` (H.264), `.gif`, `.webp` (animated) or `.png`. A PNG holds a single
frame: several frames written to `clip.png` become the folder `clip` of `frame_0000.png` and so on. A path that ends in
`/` or is an existing folder is a folder of frames. WebP merges equal frames, so a clip without motion becomes a still.

PyAV is imported where a video file is read or written, so that everything else works without it.
"""

import json
import math
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo

from starflow.errors import StarflowError, UsageError
from starflow.media.files import atomic_write
from starflow.media.frames import Frames

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

Frame = NDArray[np.uint8]  # (height, width, 3)
PathLike = str | os.PathLike[str]

IMAGE_EXTENSIONS = {".gif", ".webp", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
FOLDER = "folder"
H264_RATE_FACTOR = 16  # visually lossless
H264_BT709 = H264_LIMITED_RANGE = 1
WEBP_QUALITY = 90
EXIF_DESCRIPTION = 0x010E
GIF_DEFAULT_DURATION = 100  # milliseconds, as in browsers, of a frame without a duration
_PARSER_ERRORS = (OSError, SyntaxError, ValueError, LookupError, EOFError, struct.error)  # Pillow's, on corrupt files
CONTACT_SHEET_COLUMNS = 6
LABEL_HEIGHT, TILE_GAP, MIN_TILE_HEIGHT = 22, 2, 96  # of a contact sheet, in pixels


# --------------------------------------------------------------------------------------------------------- reading


def read_video(path: PathLike) -> tuple[Frames, float]:
    """Read a video, an animation, an image, or a folder of images in the order of the numbers in their names.

    Returns:
        The frames (F, height, width, 3), and the frame rate. It is 0 for a still image, and for a folder of images
        that `write_video` did not write.

    Raises:
        StarflowError: the file is missing, empty or corrupt, or contains no video.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    _check_file(path)
    with _corrupt_is_an_error(path):
        if path.suffix.lower() in IMAGE_EXTENSIONS:
            return _read_image(path)
        return _read_container(path)


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The metadata that `write_video` stored in a file or a folder of frames; empty if there is none.

    Raises:
        StarflowError: the file is missing, empty or corrupt.
    """
    path = Path(path)
    if path.is_dir():
        path = _images_in(path)[0]
    _check_file(path)
    with _corrupt_is_an_error(path):
        comment = _read_comment(path)
    try:
        metadata = json.loads(comment) if isinstance(comment, str | bytes) else None
    except ValueError:  # a comment of another program
        metadata = None
    return metadata if isinstance(metadata, dict) else {}


def _check_file(path: Path) -> None:
    if not path.exists():
        raise StarflowError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise StarflowError(f"{path} is empty (0 bytes)")


@contextmanager
def _corrupt_is_an_error(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise
    except (Image.DecompressionBombError, *_PARSER_ERRORS) as error:
        raise StarflowError(f"cannot read {path}: it is corrupt, or neither a video nor an image") from error


@contextmanager
def _opened(path: Path) -> "Iterator[InputContainer]":
    """A video file to read. Raises ValueError for what FFmpeg cannot read, within it too."""
    import av

    try:
        with av.open(str(path)) as container:
            yield container
    except PermissionError:
        raise
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error


def _read_container(path: Path) -> tuple[Frames, float]:
    with _opened(path) as container:
        if not container.streams.video:
            raise StarflowError(f"{path} contains no video")
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        fps = float(stream.average_rate or 0) if len(frames) > 1 else 0.0
    return np.stack(frames), fps


def _read_image(path: Path) -> tuple[Frames, float]:
    frames, durations = [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(ImageOps.exif_transpose(frame).convert("RGB")))
            durations.append(float(frame.info.get("duration", 0)))
    if len(frames) == 1 and not durations[0]:
        return np.stack(frames), 0.0
    return _at_constant_rate(np.stack(frames), np.array(durations))


def _at_constant_rate(frames: Frames, durations: NDArray[np.float64]) -> tuple[Frames, float]:
    """Restore a constant frame rate: GIF and WebP round durations (to 10 and 1 ms) and merge equal frames.

    The rate is the first candidate, the mean rate or a whole number, on whose grid every frame ends. Without one, the
    frames are returned unchanged, with the mean rate.
    """
    ends = np.cumsum(np.where(durations > 0, durations, GIF_DEFAULT_DURATION)) / 1000
    mean_rate = len(frames) / ends[-1]
    even_rates = [float(round(mean_rate)), mean_rate] if len(frames) > 1 else []
    for fps in [*even_rates, *map(float, range(1, 61))]:
        ticks = np.round(ends * fps)
        repeats = np.diff(ticks, prepend=0).astype(int)
        if np.all(np.abs(ends * fps - ticks) <= 0.0051 * fps) and np.all(repeats > 0):
            return np.repeat(frames, repeats, axis=0), fps
    return frames, mean_rate


def _read_folder(folder: Path) -> tuple[Frames, float]:
    images = []
    for path in _images_in(folder):
        frames, _ = read_video(path)
        images.append(frames[0])
    if len({image.shape for image in images}) > 1:
        raise StarflowError(f"the images in {folder} have different sizes")
    with Image.open(_images_in(folder)[0]) as first:
        fps = float(first.info.get("Frame rate", 0))
    return np.stack(images), fps


def _images_in(folder: Path) -> list[Path]:
    """The images of a folder, ordered by the numbers in their names: 10 comes after 9."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS]
    if not images:
        raise StarflowError(f"the folder {folder} contains no images")
    return sorted(images, key=lambda path: [part.zfill(12) for part in re.split(r"(\d+)", path.name)])


def _read_comment(path: Path) -> Any:
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        with Image.open(path) as image:
            return image.info.get("comment") or image.info.get("Comment") or image.getexif().get(EXIF_DESCRIPTION)
    with _opened(path) as container:
        return container.metadata.get("comment")


# --------------------------------------------------------------------------------------------------------- writing


def write_video(path: PathLike, frames: Frames, fps: float, metadata: dict[str, Any] | None = None) -> Path:
    """Write a clip (F, height, width, 3) in the format of the extension; the same input gives the same bytes.

    Args:
        path: a file or a folder; see the top of this module.
        frames: uint8, RGB.
        fps: frames per second; may be 0 for a single frame.
        metadata: stored in the file as JSON; `read_metadata` reads it.

    Returns:
        The path written: `path`, or the folder of frames.

    Raises:
        UsageError: the extension is unknown, the sides are odd (`.mp4`), or the frame rate is not positive.
        StarflowError: the folder to write contains other files.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"a clip is uint8 (F, height, width, 3) with F > 0, not {frames.dtype} {frames.shape}")
    return write_frames(path, frames, len(frames), fps, metadata)


def write_frames(
    path: PathLike, frames: Iterable[Frame], num_frames: int, fps: float, metadata: dict[str, Any] | None = None
) -> Path:
    """Write frames (height, width, 3) as they come, like `write_video`; only GIF and WebP hold all of them in memory.

    If `frames` raises an exception, nothing is written to `path`.

    Raises:
        UsageError, StarflowError: as `write_video`.
    """
    if num_frames > 1 and not 0 < fps < float("inf"):
        raise UsageError(f"the number of frames per second must be positive, not {fps}")
    kind, destination = _destination(path, num_frames)
    with atomic_write(destination) as temporary:
        _WRITERS[kind](temporary, frames, fps, None if metadata is None else json.dumps(metadata))
    return destination


def write_growing(path: PathLike, frames: Iterable[Frame], fps: float, metadata: dict[str, Any] | None = None) -> Path:
    """Write frames as they come to a fragmented MP4, which players can open while it grows.

    If `frames` raises an exception, the file contains the frames before it and can be played.

    Raises:
        UsageError: the path is not an `.mp4`, or the sides are odd.
    """
    path = _require_mp4(path)
    _write_mp4(path, frames, fps, None if metadata is None else json.dumps(metadata), growing=True)
    return path


def _require_mp4(path: PathLike) -> Path:
    if Path(path).suffix.lower() != ".mp4":
        raise UsageError(f"only an .mp4 can be played while it grows, not {os.fspath(path)}")
    return Path(path)


def check_writable(path: PathLike, num_frames: int = 1, *, growing: bool = False) -> None:
    """Check before the expensive work that a path can be written. Creates missing parent folders.

    Raises:
        UsageError: the extension is unknown, or is not `.mp4` and `growing`.
        StarflowError: the folder cannot be written, or the folder of frames contains other files.
    """
    _, destination = _destination(path, num_frames)
    if growing:
        _require_mp4(path)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination.parent):
            pass
    except OSError as error:
        raise StarflowError(f"cannot write {destination}: {error.strerror}: {destination.parent}") from error


def _destination(path: PathLike, num_frames: int) -> tuple[str, Path]:
    """The key in `_WRITERS` for a path, and the file or folder to write."""
    name, path = os.fspath(path), Path(path)
    kind = FOLDER if name.endswith(("/", os.sep)) or path.is_dir() else path.suffix.lower()
    if kind == ".png" and num_frames > 1:
        kind, path = FOLDER, path.with_suffix("")
    if kind not in _WRITERS:
        raise UsageError(
            f"cannot write {name}: unknown extension {kind!r}; "
            "use .mp4, .gif, .webp or .png, or end the path in / for a folder of frames"
        )
    if kind == FOLDER and path.exists():
        if not path.is_dir():
            raise StarflowError(f"cannot write frames into {path}: it is a file")
        if any(re.fullmatch(r"frame_\d+\.png", entry.name) is None for entry in path.iterdir()):
            raise StarflowError(f"cannot write frames into {path}: the folder contains other files")
    return kind, path


def _write_mp4(path: Path, frames: Iterable[Frame], fps: float, comment: str | None, *, growing: bool = False) -> None:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    layout = "empty_moov+default_base_moof+frag_every_frame" if growing else "faststart"
    options = {"movflags": layout, "flush_packets": "1"} if growing else {"movflags": layout}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream: VideoStream | None = None
        try:
            for image in frames:
                stream = stream or _h264_stream(container, image.shape[1], image.shape[0], fps, growing)
                rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                yuv = rgb.reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                )  # players guess the color matrix from the size, unless the file states it
                container.mux(stream.encode(yuv))
        finally:
            if stream is not None:
                container.mux(stream.encode())


def _h264_stream(container: "OutputContainer", width: int, height: int, fps: float, growing: bool) -> "VideoStream":
    if height % 2 or width % 2:
        raise UsageError(f"H.264 needs even sides, not {width}×{height}; write .webp or .png instead")
    # Macroblock-tree rate control is off, as it makes the bytes of small frames vary from run to run.
    options = {"crf": str(H264_RATE_FACTOR), "x264-params": "mbtree=0"}
    if growing:
        options["tune"] = "zerolatency"  # every frame leaves the encoder at once
    stream = container.add_stream("libx264", rate=Fraction(fps or 1).limit_denominator(1001), options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.thread_count = 1  # the bytes depend on the number of threads
    context.colorspace = context.color_primaries = context.color_trc = H264_BT709
    context.color_range = H264_LIMITED_RANGE
    return stream


def _write_gif(path: Path, frames: Iterable[Frame], fps: float, comment: str | None) -> None:
    _write_animation(path, list(frames), fps, 10, comment=(comment or "").encode())


def _write_webp(path: Path, frames: Iterable[Frame], fps: float, comment: str | None) -> None:
    exif = Image.Exif()
    if comment is not None:
        exif[EXIF_DESCRIPTION] = comment
    _write_animation(path, list(frames), fps, 1, exif=exif, quality=WEBP_QUALITY)


def _write_animation(path: Path, frames: list[Frame], fps: float, time_unit: int, **options: Any) -> None:
    first, *others = [Image.fromarray(frame) for frame in frames]
    if others:
        durations = _durations(len(frames), fps, time_unit)
        options |= {"save_all": True, "append_images": others, "duration": durations, "loop": 0}
    first.save(path, **options)


def _durations(num_frames: int, fps: float, unit: int) -> list[int]:
    """Milliseconds of each frame, multiples of `unit`. The ends are rounded, so that errors do not add up."""
    ends = np.round(np.arange(num_frames + 1) * 1000 / (fps * unit)).astype(int) * unit
    return np.diff(ends).tolist()


def _write_png(path: Path, frames: Iterable[Frame], fps: float, comment: str | None) -> None:
    text = PngInfo()
    if comment is not None:
        text.add_text("Comment", comment)
    if fps:
        text.add_text("Frame rate", str(fps))
    (frame,) = frames
    Image.fromarray(frame).save(path, pnginfo=text)


def _write_folder(path: Path, frames: Iterable[Frame], fps: float, comment: str | None) -> None:
    path.mkdir()
    for index, frame in enumerate(frames):
        _write_png(path / f"frame_{index:04d}.png", [frame], fps, comment)


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp, ".png": _write_png, FOLDER: _write_folder}


# --------------------------------------------------------------------------------------------------- contact sheet


def contact_sheet(
    clips: Frames | Sequence[Frames],
    path: PathLike,
    labels: Sequence[str] | None = None,
    columns: int = CONTACT_SHEET_COLUMNS,
) -> None:
    """Write a PNG with a row per clip, of `columns` evenly spaced frames from first to last.

    Args:
        clips: one clip (F, height, width, 3) or several, uint8, RGB. Small frames are enlarged by a whole factor.
        path: a `.png` file.
        labels: one line of text above each row.
        columns: the number of frames in a row; a shorter clip shows all its frames.

    Raises:
        UsageError: the path is not a PNG file.
    """
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"a contact sheet is a PNG file: name it .png, not {os.fspath(path)}")
    if isinstance(clips, np.ndarray) and clips.ndim == 4:
        clips = [clips]
    strips = [_strip(clip, columns) for clip in clips]
    label_height = 0 if labels is None else LABEL_HEIGHT
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height + label_height + TILE_GAP for strip in strips)), "white")
    top = 0
    for row, strip in enumerate(strips):
        if labels is not None:
            sheet.paste(_label(labels[row], width), (0, top))
        sheet.paste(strip, (0, top + label_height))
        top += strip.height + label_height + TILE_GAP
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def _strip(clip: Frames, columns: int) -> Image.Image:
    shown = np.unique(np.linspace(0, len(clip) - 1, columns).round().astype(int))
    scale = math.ceil(MIN_TILE_HEIGHT / clip.shape[1])
    tiles = clip[shown].repeat(scale, axis=1).repeat(scale, axis=2)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (0, TILE_GAP), (0, 0)], constant_values=255)
    return Image.fromarray(np.concatenate(list(tiles), axis=1)[:, :-TILE_GAP])


def _label(text: str, width: int) -> Image.Image:
    image = Image.new("RGB", (width, LABEL_HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    line = " ".join(text.split())
    if draw.textlength(line, font) > width:
        while line and draw.textlength(line + "…", font) > width:
            line = line[:-1]
        line += "…"
    draw.text((2, 3), line, fill="black", font=font)
    return image
