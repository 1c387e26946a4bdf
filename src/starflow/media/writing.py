"""Writing videos, animations, pictures and folders of frames.

The extension of a path gives the format: `.mp4` (H.264), `.gif`, `.webp` (animated) or `.png`. A PNG holds a single
frame: several frames written to `clip.png` become the folder `clip` of `frame_0000.png` and so on. A path that ends in
`/` or is an existing folder is a folder of frames. WebP merges equal frames, so a clip without motion becomes a still.

`av` is imported inside functions, so that the package works without it.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from starflow.errors import StarflowError, UsageError
from starflow.media.containers import BT709, file_url
from starflow.media.files import atomic_write
from starflow.media.frames import Frame, Frames
from starflow.media.reading import EXIF_DESCRIPTION, PathLike, read_metadata

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

FOLDER = "folder"
H264_RATE_FACTOR = 16  # visually lossless
H264_LIMITED_RANGE = 1
WEBP_QUALITY = 90
# The lowest and highest frame rate of each format. Browsers show GIF and WebP frames of up to 10 ms for 100 ms.
RATES = {".mp4": (0.01, 1000), ".gif": (0.01, 50), ".webp": (0.01, 90)}


def write_video(path: PathLike, frames: Frames, fps: float, metadata: dict[str, Any] | None = None) -> Path:
    """Write a clip (F, height, width, 3) in the format of the extension; the same input gives the same bytes.

    Args:
        path: a file or a folder; see the top of `starflow.media.writing`.
        frames: uint8, RGB.
        fps: frames per second; may be 0 for a single frame.
        metadata: stored in the file as JSON; `read_metadata` reads it.

    Returns:
        The path written: `path`, or the folder of frames.

    Raises:
        UsageError: the extension is unknown, the sides are odd (`.mp4`), or the format cannot store the frame rate.
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
    kind, destination = _destination(path, num_frames)
    if num_frames > 1:
        _check_rate(kind, fps)
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
    _check_rate(".mp4", fps or 1)
    _write_mp4(path, frames, fps, None if metadata is None else json.dumps(metadata), growing=True)
    return path


def _require_mp4(path: PathLike) -> Path:
    if Path(path).suffix.lower() != ".mp4":
        raise UsageError(f"only an .mp4 can be played while it grows, not {os.fspath(path)}")
    return Path(path)


def check_writable(path: PathLike, num_frames: int = 1, *, fps: float | None = None, growing: bool = False) -> None:
    """Check before the expensive work that a path can be written. Creates missing parent folders.

    What starflow made may be replaced, and nothing else: its metadata name `software` that begins with "starflow".

    Args:
        path: the file or folder.
        num_frames: of the clip to be written.
        fps: its frame rate, if it is known.
        growing: whether `write_growing` is to write it.

    Raises:
        UsageError: the extension is unknown, or is not `.mp4` and `growing`; the format cannot store the frame rate.
        StarflowError: the name is too long, the folder cannot be written, or it exists and is not from starflow.
    """
    destination = Path(path)
    try:
        kind, destination = _destination(path, num_frames)
        with suppress(FileNotFoundError):
            destination.lstat()  # fails if the name is too long
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination.parent):
            pass
    except OSError as error:
        raise StarflowError(f"cannot write {destination}: {error.strerror}: {destination.parent}") from error
    if not _is_replaceable(destination):
        raise StarflowError(f"{destination} exists and is not from starflow: remove it, or choose another name")
    if growing:
        _require_mp4(path)
    if fps is not None and num_frames > 1:
        _check_rate(kind, fps)


def _is_replaceable(path: Path) -> bool:
    """Whether a file or a folder does not exist, is empty, or was made by starflow."""
    if not path.exists() or (not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0):
        return True
    with suppress(StarflowError):
        return str(read_metadata(path).get("software")).startswith("starflow")
    return False


def _check_rate(kind: str, fps: float) -> None:
    if not 0 < fps < float("inf"):
        raise UsageError(f"the number of frames per second must be positive, not {fps}")
    slowest, fastest = RATES.get(kind, (0, float("inf")))
    if not slowest <= fps <= fastest:
        raise UsageError(f"{kind} can store {slowest:g} to {fastest:g} frames per second, not {fps:g}")


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
    with av.open(file_url(path), "w", format="mp4", options=options) as container:
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
    context.colorspace = context.color_primaries = context.color_trc = BT709
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
    text = png_text(comment)
    if fps:
        text.add_text("Frame rate", str(fps))
    (frame,) = frames
    Image.fromarray(frame).save(path, pnginfo=text)


def png_text(comment: str | None) -> PngInfo:
    """The text of a PNG: the comment that `read_metadata` reads."""
    text = PngInfo()
    if comment is not None:
        text.add_text("Comment", comment)
    return text


def _write_folder(path: Path, frames: Iterable[Frame], fps: float, comment: str | None) -> None:
    path.mkdir()
    for index, frame in enumerate(frames):
        _write_png(path / f"frame_{index:04d}.png", [frame], fps, comment)


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp, ".png": _write_png, FOLDER: _write_folder}
