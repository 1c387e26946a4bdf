"""Uploads become frames, in a process of their own: a file that attacks the decoder, or needs too much, harms only it.

The frames of an upload are stored as `(F, height, width, 3)`, uint8, in a safetensors file.
"""

import resource
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from starflow.errors import StarflowError
from starflow.media.frames import Frames
from starflow.media.loading import load_clip, load_picture
from starflow.media.reading import open_video
from starflow.serve.processes import CONTEXT
from starflow.serve.settings import Limits

PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Wanted:
    """What an upload is made to fit: a picture, or a clip at a rate.

    Attributes:
        height, width: in pixels.
        fps: frames per second; None for a picture.
        multiple: a clip is cut to 1 + k·`multiple` frames.
        keep_end: whether the beginning is cut off, not the end.
        max_frames: a longer clip is cut, too.
    """

    height: int
    width: int
    fps: float | None = None
    multiple: int = 1
    keep_end: bool = False
    max_frames: int | None = None


def decode(source: Path, frames: Path, wanted: Wanted, limits: Limits) -> int:
    """Decode an upload to a file of frames, in another process. Returns how many there are.

    Raises StarflowError, without the names of files, if it cannot be decoded within the limits.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_decode, args=(source, frames, wanted, limits, sender), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(limits.decoding_seconds) else "it takes too long to decode"
    except EOFError:
        answer = "it needs too much time or memory to decode, or breaks the decoder"
    finally:
        process.kill()
        process.join()
        receiver.close()
    if isinstance(answer, str):
        raise StarflowError(answer)
    return answer


def read_frames(path: Path) -> Frames:
    """The frames of a file that `decode` wrote."""
    return load_file(path)["frames"]


def write_frames(path: Path, frames: Frames) -> None:
    """Store frames as `decode` does."""
    save_file({"frames": np.ascontiguousarray(frames)}, path)


def _decode(source: Path, frames: Path, wanted: Wanted, limits: Limits, answer: Connection) -> None:
    """Decode, and send the number of frames or what is wrong."""
    _limit(limits)
    try:
        clip = _read(source, wanted, limits)
        write_frames(frames, clip)
        answer.send(len(clip))
    except MemoryError:
        answer.send("it needs too much memory to decode")
    except StarflowError as error:
        answer.send(str(error).replace(str(source), "the file"))


def _read(source: Path, wanted: Wanted, limits: Limits) -> Frames:
    video = open_video(source)
    if video.height * video.width > limits.upload_pixels:
        raise StarflowError(
            f"its frames are {video.width}×{video.height}: at most {limits.upload_pixels} pixels are allowed"
        )
    if wanted.fps is None:
        return load_picture(source, wanted.height, wanted.width, _ignore)[None]
    most = min(limits.upload_frames, int(limits.seconds * wanted.fps))
    clip = load_clip(source, wanted.height, wanted.width, wanted.fps, _ignore, max_frames=most + 1)
    if len(clip) > most:
        raise StarflowError(f"the clip is longer than {most} frames at {wanted.fps:g} fps, or {most / wanted.fps:g} s")
    clip = clip[: wanted.max_frames]
    spare = (len(clip) - 1) % wanted.multiple
    return clip[spare:] if wanted.keep_end else clip[: len(clip) - spare]


def _ignore(_: str) -> None:
    """Fitting to the video's size and rate needs no message."""


def _limit(limits: Limits) -> None:
    """Bound the time of this process and, on Linux, the memory above what it has now. A crash leaves no core file."""
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (size + limits.decoding_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.decoding_seconds,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
