"""Video files, read with PyAV (FFmpeg): the frames of the video stream in RGB, upright, with square pixels.

`av` is imported inside functions, so that the package works without it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from starflow.errors import StarflowError
from starflow.media.frames import Frame
from starflow.media.pictures import check_pixels, over_background
from starflow.media.timing import Timed

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.filter import Graph
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

NO_VIDEO_FORMATS = ("tty", "hls", "concat")  # FFmpeg takes text files for these
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")
GUESSED_RATE = 25  # frames per second of a stream without times, as in FFmpeg

# The numbers of ITU-T H.273, which streams are tagged with.
BT709, UNSPECIFIED, RESERVED, BT2020 = 1, 2, 3, 9
MATRICES = (BT709, 4, 5, 6, 7, BT2020)  # that libswscale converts from
HDR_TRANSFERS = (16, 18)  # PQ, HLG
WIDE_PRIMARIES = (BT2020, 11, 12)  # BT.2020, DCI-P3, Display P3
STANDARD_DEFINITION = (1279, 576)  # the largest width and height of untagged video that is taken as BT.601


def file_url(path: str | os.PathLike[str]) -> str:
    """A path as FFmpeg takes it: without the prefix, a name such as `12:30.mp4` would name a protocol."""
    return f"file:{os.fspath(path)}"


@contextmanager
def open_stream(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """A file and its video stream.

    Raises:
        StarflowError: the file has no video (cover art is none), or a picture that is too large.
    """
    import av
    from av.stream import Disposition
    from av.video.stream import VideoStream

    with path.open("rb") as file:
        if file.read(12)[4:] in [b"ftyp" + brand for brand in HEIC_BRANDS]:
            raise StarflowError(f"{path} is a HEIC picture, which cannot be read: save it as JPEG or PNG")
    # Only files are opened: a playlist cannot load anything from the network.
    with av.open(file_url(path), container_options={"protocol_whitelist": "file"}) as container:
        if container.format.name in NO_VIDEO_FORMATS:
            raise StarflowError(f"cannot read {path}: it is neither a video nor an image")
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise StarflowError(f"{path} contains no video")
        if stream.codec_context is None:
            raise StarflowError(f"cannot read {path}: FFmpeg does not know its video codec")
        check_pixels(path, stream.codec_context.width, stream.codec_context.height)
        yield container, stream


class Display(NamedTuple):
    """How the frames of a stream are displayed.

    Attributes:
        pixel_aspect: width over height of a pixel.
        matrix: (a, b, c, d), which maps the pixel (x, y) to (ax + cy, bx + dy), but for a shift.
    """

    pixel_aspect: Fraction = Fraction(1)
    matrix: tuple[int, int, int, int] = (1, 0, 0, 1)

    @property
    def is_sideways(self) -> bool:
        """Whether width and height are exchanged."""
        a, b, c, d = self.matrix
        return abs(b) + abs(c) > abs(a) + abs(d)


AS_STORED = Display()


def display_of(stream: "VideoStream", frame: "VideoFrame") -> Display:
    """How a stream is displayed, by its tags and those of its first frame.

    It is not asked of every frame, since a frame whose side data were looked at is freed late.
    """
    from av.sidedata.sidedata import Type

    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    side_data: Any = frame.side_data
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return Display(aspect)
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return Display(aspect, (a, b, c, d))


def decode(
    container: "InputContainer", stream: "VideoStream", origin: float | None = None
) -> Iterator[Timed["VideoFrame"]]:
    """The frames with their times. Where time stamps are missing or go back, a frame follows the one before at once.

    How long the last frame is shown is left open, as many programs write nothing sensible there. `origin` is the time
    stamp, in seconds, that counts as time 0; None: that of the first frame.
    """
    step = 1 / float(stream.average_rate or GUESSED_RATE)
    offset = origin  # of the time stamps
    time, follows = -1.0, 0.0
    for frame in _progressive(container.decode(stream), stream):
        if frame.pts is None:
            time = follows
        else:
            if offset is None or frame.time - offset <= time:
                offset = frame.time - follows
            time = frame.time - offset
        follows = time + (float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step)
        yield Timed(time, time, frame)


def decode_from(path: Path, start: float, origin: float) -> Iterator[Timed["VideoFrame"]]:
    """The frames from the last key frame before `start` on, or all frames if the file cannot be entered there."""
    from av.error import FFmpegError

    with open_stream(path) as (container, stream):
        frames, first = decode(container, stream, origin), None
        with suppress(FFmpegError):
            container.seek(int((origin + start) / (stream.time_base or 1)), stream=stream)
            first = next(frames, None)
        if first is not None and first.item.pts is not None and first.time <= start:
            yield first
            yield from frames
            return
    with open_stream(path) as (container, stream):
        yield from decode(container, stream)


def last_time(path: Path, origin: float) -> float | None:
    """The time of the last frame in seconds, without decoding; None if the file has no time stamps."""
    with open_stream(path) as (container, stream):
        stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        return float(max(stamps) * stream.time_base) - origin if stamps and stream.time_base else None


def _progressive(frames: Iterator["VideoFrame"], stream: "VideoStream") -> Iterator["VideoFrame"]:
    """The frames, from the first interlaced one on through a filter: each frame has the time of its first field."""
    graph = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        graph = graph or _deinterlacer(stream)
        graph.push(frame)
        yield from _filtered(graph)
    if graph is not None:
        graph.push(None)
        yield from _filtered(graph)


def _deinterlacer(stream: "VideoStream") -> "Graph":
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(template=stream)
    deinterlace = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    source.link_to(deinterlace)
    deinterlace.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _filtered(graph: "Graph") -> Iterator[Any]:
    """The frames that a filter has ready."""
    with suppress(BlockingIOError, EOFError):
        while True:
            yield graph.pull()


def displayed_size(frame: "VideoFrame", display: Display) -> tuple[int, int]:
    """Height and width of a frame as it is displayed."""
    height, width = frame.height, _square_width(frame, display)
    return (width, height) if display.is_sideways else (height, width)


def _square_width(frame: "VideoFrame", display: Display) -> int:
    """The width at which the pixels of a frame are square."""
    return max(1, round(frame.width * display.pixel_aspect))


def to_rgb(
    frame: "VideoFrame", display: Display, reformatter: "VideoReformatter", size: tuple[int, int] | None = None
) -> Frame:
    """A frame as it is displayed. The reformatter keeps what it has prepared, which takes seconds for HDR video.

    With `size`, a height and a width, a larger frame is scaled down to about the least size that covers it. This is
    much faster than to convert all of it to RGB.
    """
    from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation

    has_alpha = any(component.is_alpha for component in frame.format.components)
    colors: dict[str, int] = {}
    if frame.color_trc in HDR_TRANSFERS or frame.color_primaries in WIDE_PRIMARIES:
        # libswscale maps 203 nits, the white of HDR video (ITU-R BT.2408), to white, and clips what is brighter.
        colors = {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}
        frame.color_trc = BT709 if frame.color_trc == UNSPECIFIED else frame.color_trc
    width, height = _square_width(frame, display), frame.height
    if size is not None:
        width, height = _covering(width, height, size[::-1] if display.is_sideways else size)
    rgb = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgba" if has_alpha else "rgb24",
        src_colorspace=_matrix(frame),
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
        **colors,
    ).to_ndarray()
    image = over_background(Image.fromarray(rgb)) if has_alpha else rgb
    return _upright(np.asarray(image, np.uint8), display)


def _covering(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """A width and a height scaled down to cover `size`, a height and a width, with equal margins of whole pixels."""
    scale = max(size[1] / width, size[0] / height)
    if scale >= 1:
        return width, height
    margins = [ceil((side * scale - least) / 2 - 0.01) for side, least in ((width, size[1]), (height, size[0]))]
    return size[1] + 2 * margins[0], size[0] + 2 * margins[1]


def _matrix(frame: "VideoFrame") -> int | None:
    """The matrix from YCbCr to RGB of an untagged frame, by its size, as players guess it; None if it is tagged."""
    from av.video.reformatter import Colorspace

    if frame.format.is_rgb or frame.colorspace in MATRICES:
        return None
    if frame.colorspace not in (UNSPECIFIED, RESERVED):
        raise StarflowError(f"colors of the kind {frame.colorspace} of ITU-T H.273 cannot be read: convert the video")
    small = frame.width <= STANDARD_DEFINITION[0] and frame.height <= STANDARD_DEFINITION[1]
    return Colorspace.ITU601 if small else Colorspace.ITU709


def _upright(image: Frame, display: Display) -> Frame:
    """Rotate by quarter turns and mirror, as the display matrix says."""
    a, b, c, d = display.matrix
    if display.is_sideways:
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
