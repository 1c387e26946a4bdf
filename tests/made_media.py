"""Media files for tests, made with PyAV as other programs make them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def colored(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames whose brightness rises by 10 from 20: `number_of` reads their numbers back. The left half is red."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    for number in range(num_frames):
        frames[number] = 20 + 10 * number
    frames[:, :, : width // 2, 0] = 250
    return frames


def number_of(frame: np.ndarray) -> int:
    """The number of a frame of `colored`, from its green."""
    return round((float(frame[..., 1].mean()) - 20) / 10)


def write_media(
    path: Path,
    frames: np.ndarray,
    fps: float = 8,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    set_up: Callable[[Any], None] = lambda stream: None,
    to_frame: Callable[[np.ndarray], av.VideoFrame] | None = None,
    format: str | None = None,
) -> Path:
    """Write frames at a constant rate or at `times`, in seconds.

    Args:
        set_up: changes the stream before the first frame, for example its color tags.
        to_frame: makes the frame that is encoded; by default RGB is converted as FFmpeg does it.
        format: of the container, if the extension does not say.
    """
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        set_up(stream)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24") if to_frame is None else to_frame(image)
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[index]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
