"""Colors come back as they went in: bars in every format that is written, and in every kind of video that is read."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from made_media import write_media
from starflow.media.reading import read_video
from starflow.media.video import write_video

BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]
BARS += [(128, 128, 128), (190, 110, 60), (60, 110, 190), (16, 16, 16), (235, 235, 235)]


def bars(num_frames: int = 2, height: int = 48) -> np.ndarray:
    return np.tile(np.array(BARS, np.uint8).repeat(16, axis=0), (num_frames, height, 1, 1))


def error(path: Path) -> int:
    """The largest difference in the middle of the bars."""
    frames, _ = read_video(path)
    return int(np.abs(frames[:, 24, 8::16].astype(int) - BARS).max())


@pytest.mark.parametrize(("name", "largest"), [("a.mp4", 6), ("a.gif", 0), ("a.webp", 12), ("a/", 0)])
def test_written_clips(tmp_path: Path, name: str, largest: int):
    assert error(write_video(f"{tmp_path}/{name}", bars(), 8)) <= largest


def test_a_written_picture(tmp_path: Path):
    assert error(write_video(tmp_path / "a.png", bars(1), 0)) == 0


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709, Colorspace.BT2020])
def test_videos_with_tags(tmp_path: Path, matrix: Colorspace, pix_fmt: str, full: bool):
    color_range = ColorRange.JPEG if full else ColorRange.MPEG

    def set_up(stream):
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        stream.options = {"crf": "4"}

    def to_frame(image):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        return frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=color_range)

    path = write_media(tmp_path / "a.mp4", bars(), pix_fmt=pix_fmt, set_up=set_up, to_frame=to_frame)
    assert error(path) <= 4


@pytest.mark.parametrize(
    ("height", "matrix"), [(48, Colorspace.ITU601), (576, Colorspace.ITU601), (720, Colorspace.ITU709)]
)
def test_videos_without_tags_are_taken_as_their_size_suggests(tmp_path: Path, height: int, matrix: Colorspace):
    def to_frame(image):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        return frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=ColorRange.MPEG)

    assert error(write_media(tmp_path / "a.mkv", bars(2, height), codec="ffv1", to_frame=to_frame)) <= 3


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mkv", "ffv1", "gbrp10le"), ("a.mov", "qtrle", "rgb24"), ("a.mkv", "ffv1", "bgra"), ("a.avi", "png", "rgb24")],
)
def test_videos_in_rgb(tmp_path: Path, name: str, codec: str, pix_fmt: str):
    path = write_media(
        tmp_path / name,
        bars(),
        codec=codec,
        pix_fmt=pix_fmt,
        to_frame=lambda image: av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt),
    )
    assert error(path) <= 1


def test_what_is_transparent_in_a_video_is_white(tmp_path: Path):
    image = np.zeros((2, 48, 64, 4), np.uint8)
    image[:, :, :32] = (200, 0, 0, 255)
    path = write_media(
        tmp_path / "a.mov",
        image,
        codec="qtrle",
        pix_fmt="argb",
        to_frame=lambda frame: av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format="argb"),
    )
    frames, _ = read_video(path)
    assert frames[0, 24, [8, 56]].tolist() == [[200, 0, 0], [255, 255, 255]]


def test_10_bit(tmp_path: Path):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, None, :, None], (2, 48, 1, 3))
    path = write_media(tmp_path / "a.mkv", ramp, codec="ffv1", pix_fmt="yuv444p10le")
    assert np.abs(read_video(path)[0].astype(int) - ramp).max() <= 1


PQ, HLG, BT2020 = 16, 18, 9


def pq(nits: np.ndarray) -> np.ndarray:
    """The PQ signal in [0, 1] of a luminance (SMPTE ST 2084)."""
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@pytest.mark.parametrize(
    ("transfer", "signal", "expected"),
    [
        (PQ, pq(np.array([0, 10, 50, 100, 203, 1000])), [0, 73, 142, 189, 254, 255]),  # 203 nits are white
        (HLG, np.array([0, 0.25, 0.5, 0.75, 0.9, 1]), [0, 71, 143, 250, 255, 255]),  # 75 % is white
    ],
)
def test_hdr_is_mapped_so_that_its_reference_white_is_white(tmp_path: Path, transfer: int, signal, expected):
    luma = np.round(64 + 876 * signal).astype(np.uint16).repeat(16)

    def to_frame(_):
        frame = av.VideoFrame(len(luma), 48, "yuv420p10le")
        frame.planes[0].update(_rows(luma, 48, frame.planes[0]))
        for plane in frame.planes[1:]:
            plane.update(_rows(np.full(len(luma) // 2, 512, np.uint16), 24, plane))
        return frame

    def set_up(stream):
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = (
            BT2020,
            BT2020,
            transfer,
            1,
        )
        stream.options = {"crf": "4"}

    black = np.zeros((2, 48, len(luma), 3), np.uint8)
    path = write_media(tmp_path / "a.mp4", black, pix_fmt="yuv420p10le", set_up=set_up, to_frame=to_frame)
    shown = read_video(path)[0][0, 24, 8::16].astype(int)
    assert np.ptp(shown, axis=1).max() <= 2, "gray stays gray"
    assert np.abs(shown[:, 0] - expected).max() <= 6


def _rows(line: np.ndarray, height: int, plane) -> bytes:
    padded = np.zeros((height, plane.line_size // 2), np.uint16)
    padded[:, : len(line)] = line
    return padded.tobytes()
