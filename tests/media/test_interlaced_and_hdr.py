"""Interlaced video is deinterlaced, and HDR pictures are mapped to BT.709."""

import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from made_media import write_media
from starflow.errors import StarflowError
from starflow.media.reading import open_video, read_video

WHITE_IN_PQ = 0.5807  # 203 nits, the white of HDR video (ITU-R BT.2408)


def combing(frame: np.ndarray) -> float:
    """How much the lines of a frame differ from the lines around them."""
    lines = frame.astype(float)
    return float(np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean())


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_interlaced_video_is_deinterlaced(name: str, tmp_path: Path):
    frames = np.zeros((8, 64, 96, 3), np.uint8)
    for index, frame in enumerate(frames):
        for field in range(2):  # the second one is taken half a frame later
            left = 8 * index + 4 * field
            frame[field:, left : left + 16][20:44:2] = 255
    path = write_media(
        tmp_path / name,
        frames,
        25,
        set_up=lambda stream: stream.codec_context.options.update({"x264-params": "interlaced=1:tff=1"}),
        to_frame=lambda image: av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p"),
    )
    shown, fps = read_video(path)
    assert (len(shown), fps) == (8, 25)
    assert combing(shown[4]) < 0.2 * combing(frames[4])
    assert np.abs(shown[4].astype(int) - frames[4]).mean() < 12
    assert len(list(open_video(path).frames(12.5, (32, 32)))) == 4


def write_png_16(path: Path, image: np.ndarray, colors: bytes) -> Path:
    """A PNG of 16 bits, with a cICP chunk: primaries, transfer, matrix, full range."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = image.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in image)
    content = header + chunk(b"cICP", colors) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_a_png_in_pq_is_mapped_and_others_are_not(tmp_path: Path):
    image = np.full((32, 48, 3), round(65535 * WHITE_IN_PQ), np.uint16)
    image[:, 24:] = 65535 // 10
    path = write_png_16(tmp_path / "pq.png", image, bytes([9, 16, 0, 1]))
    video = open_video(path)
    assert video.is_image
    (frame,) = video.frames(size=(32, 48))
    assert frame.item[:, :20].min() >= 250
    assert frame.item[:, 28:].max() < 30
    path = write_png_16(tmp_path / "srgb.png", image, bytes([1, 13, 0, 1]))
    assert abs(int(read_video(path)[0][0, 0, 0, 0]) - 255 * WHITE_IN_PQ) < 2


def test_an_avif_in_pq_is_mapped(tmp_path: Path):
    def in_pq(stream: av.VideoStream) -> None:
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1

    white = np.full((1, 64, 64, 3), round(255 * WHITE_IN_PQ), np.uint8)
    path = tmp_path / "pq.avif"
    write_media(path, white, 1, codec="libsvtav1", pix_fmt="yuv420p10le", set_up=in_pq, format="avif")
    (frame,) = read_video(path)[0]
    assert frame.shape == (64, 64, 3)
    assert frame.min() >= 245


def test_an_hdr_avif_of_tiles_is_refused(tmp_path: Path):
    path = tmp_path / "tiles.avif"
    path.write_bytes(b"\0\0\0\x20ftypavif" + b"infe grid colrnclx\0\x09\0\x10")
    with pytest.raises(StarflowError, match="several tiles"):
        open_video(path)
