"""Videos as other programs write them: times, orientation, shape of the pixels, streams, folders."""

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from made_media import colored, number_of, write_media
from starflow.errors import StarflowError, UsageError
from starflow.media import containers
from starflow.media.frames import fit_frames
from starflow.media.reading import open_video, read_metadata, read_video
from starflow.media.video import write_video

HELD = [*(i / 8 for i in range(5)), *(2.5 + i / 24 for i in range(4))]  # a rate of 8, a hold of 2 s, a rate of 24


def numbers(path: Path, fps: float | None = None) -> list[int]:
    return [number_of(frame.item) for frame in open_video(path).frames(fps)]


def is_red_at(image: np.ndarray, side: str) -> bool:
    """Whether the red half of `colored` is at a side."""
    height, width = image.shape[:2]
    halves = {
        "left": image[:, : width // 2 - 2],
        "right": image[:, width // 2 + 2 :],
        "top": image[: height // 2 - 2],
        "bottom": image[height // 2 + 2 :],
    }
    return bool((halves[side][..., 0] > 200).all())


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_frames_of_a_variable_rate_are_shown_at_their_times(tmp_path: Path, name: str, codec: str):
    path = write_media(tmp_path / name, colored(9), codec=codec, times=HELD)
    assert [frame.time for frame in open_video(path).frames()] == pytest.approx(HELD, abs=1e-3)
    assert numbers(path, 8) == [0, 1, 2, 3, *[4] * 16, 5, 8]
    assert numbers(path, 24)[-4:] == [5, 6, 7, 8]
    frames, fps = read_video(path)
    assert (len(frames), fps) == (64, 24)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations_of_a_variable_rate_are_shown_at_their_times(tmp_path: Path, name: str):
    first, *others = [Image.fromarray(frame) for frame in colored(4)]
    first.save(tmp_path / name, save_all=True, append_images=others, duration=[130, 500, 130, 250])
    times = [frame.time for frame in open_video(tmp_path / name).frames()]
    assert times == pytest.approx([0, 0.13, 0.63, 0.76])
    assert numbers(tmp_path / name, 8) == [0, 1, 1, 1, 1, 2, 3, 3]


def test_a_video_without_duration_or_rate(tmp_path: Path):
    """As browsers record it: a Matroska file that could not be finished."""
    path = write_media(tmp_path / "a.mkv", colored(9), codec="libvpx-vp9", format="webm", times=HELD)
    data = path.read_bytes().replace(bytes.fromhex("4489"), bytes.fromhex("ec82"), 1)  # the duration becomes a void
    path.write_bytes(data.replace(bytes.fromhex("23e383"), bytes.fromhex("ec82aa"), 1))  # and the default duration
    with av.open(str(path)) as container:
        assert container.duration is None
        assert container.streams.video[0].average_rate is None
    assert numbers(path, 8) == [0, 1, 2, 3, *[4] * 16, 5, 8]
    assert not open_video(path).is_image


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.mp4", "libx264")])
def test_a_rate_that_is_stated_is_kept_where_times_are_rounded(tmp_path: Path, name: str, codec: str):
    frames, fps = read_video(write_media(tmp_path / name, colored(9), 30000 / 1001, codec=codec))
    assert (len(frames), fps) == (9, 30000 / 1001)


def test_time_stamps_that_go_back_are_continued(tmp_path: Path):
    path = tmp_path / "a.ts"
    parts = [write_media(tmp_path / f"{i}.ts", colored(3, *size)) for i, size in enumerate([(48, 64), (32, 48)])]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    video = open_video(path)
    frames = list(video.frames())
    assert [frame.time for frame in frames] == pytest.approx([i / 8 for i in range(6)], abs=1e-3)
    assert [number_of(frame.item) for frame in frames] == [0, 1, 2, 0, 1, 2]
    assert {frame.item.shape for frame in frames} == {(48, 64, 3)}, "a changed size is fitted to the first"


def test_short_delays_are_long_as_in_browsers(tmp_path: Path):
    first, *others = [Image.fromarray(frame) for frame in colored(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[10, 20, 0, 50])
    assert [frame.time for frame in open_video(tmp_path / "a.gif").frames()] == pytest.approx([0, 0.1, 0.12, 0.22])


def test_the_default_image_of_an_apng_is_no_part_of_it(tmp_path: Path):
    default, *frames = [Image.fromarray(frame) for frame in colored(5)]
    default.save(tmp_path / "a.png", save_all=True, append_images=frames, duration=125, default_image=True)
    assert numbers(tmp_path / "a.png") == [1, 2, 3, 4]
    assert read_video(tmp_path / "a.png")[1] == 8


@pytest.mark.parametrize("name", ["a.avif", "a.webp", "a.gif"])
def test_animations_are_no_still_images(tmp_path: Path, name: str):
    first, *others = [Image.fromarray(frame) for frame in colored(5)]
    first.save(tmp_path / name, save_all=True, append_images=others, duration=125)
    frames, fps = read_video(tmp_path / name)
    assert ([number_of(frame) for frame in frames], fps) == ([0, 1, 2, 3, 4], 8 if name != "a.gif" else fps)


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip", "clip.txt", "clip.png", "clip.avi"])
def test_the_content_counts_and_not_the_extension(tmp_path: Path, name: str):
    for made in (write_media(tmp_path / "a.mp4", colored(3)), write_video(tmp_path / "a.gif", colored(3), 10)):
        path = made.rename(tmp_path / name)
        assert numbers(path) == [0, 1, 2]


@pytest.mark.parametrize(("degrees", "side"), [(90, "bottom"), (-90, "top"), (180, "right"), (0, "left")])
def test_a_rotated_video_is_read_upright(tmp_path: Path, degrees: int, side: str):
    path = write_media(tmp_path / "a.mp4", colored(3), set_up=lambda stream: stream.set_display_rotation(degrees))
    video = open_video(path)
    frames = [frame.item for frame in video.frames()]
    assert frames[0].shape == (video.height, video.width, 3) == ((64, 48, 3) if degrees % 180 else (48, 64, 3))
    assert is_red_at(frames[0], side)


@pytest.mark.parametrize(
    ("matrix", "side"),
    [((-1, 0, 0, 1), "right"), ((1, 0, 0, -1), "left"), ((0, 1, 1, 0), "top"), ((0, -1, -1, 0), "bottom")],
)
def test_a_mirrored_video_is_read_as_it_is_shown(tmp_path: Path, matrix: tuple[int, ...], side: str):
    a, b, c, d = (value << 16 for value in matrix)
    marked = colored(3)
    marked[:, :16, :, 2] = 250  # blue at the top
    set_up = lambda stream: stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])  # noqa: E731
    image = next(open_video(write_media(tmp_path / "a.mp4", marked, set_up=set_up)).frames()).item
    assert is_red_at(image, side)
    blue_corner = image[2 if matrix[3] > 0 or matrix[1] > 0 else -3, 2 if matrix[0] > 0 or matrix[2] > 0 else -3]
    assert blue_corner[2] > 200


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(2), 128), (Fraction(16, 15), 68), (Fraction(1, 2), 32)])
def test_pixels_that_are_not_square(tmp_path: Path, aspect: Fraction, width: int):
    def set_up(stream):
        stream.codec_context.sample_aspect_ratio = aspect

    video = open_video(write_media(tmp_path / "a.mp4", colored(3), set_up=set_up))
    assert (video.height, video.width) == (48, width)
    assert is_red_at(next(video.frames()).item, "left")


def with_cover(path: Path, frames: np.ndarray | None) -> Path:
    """A file whose first stream is cover art, before sound or a video."""
    picture = path.with_name("cover.jpg")
    Image.new("RGB", (96, 96), "magenta").save(picture)
    with av.open(str(path), "w") as container, av.open(str(picture)) as source:
        cover = container.add_stream_from_template(source.streams.video[0])
        cover.disposition = Disposition.attached_pic
        if frames is None:
            main = container.add_stream("aac", rate=8000)
        else:
            main = container.add_stream("libx264", rate=8)
            main.height, main.width, main.pix_fmt = *frames.shape[1:3], "yuv420p"
        container.start_encoding()
        packet = next(source.demux())
        packet.stream = cover
        container.mux(packet)
        if frames is None:
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate = 8000
            container.mux(main.encode(sound))
        else:
            for frame in frames:
                container.mux(main.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(main.encode())
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_cover_art_is_no_video(tmp_path: Path, name: str):
    assert numbers(with_cover(tmp_path / name, colored(3))) == [0, 1, 2]


@pytest.mark.parametrize("read", [read_video, read_metadata])
def test_sound_with_cover_art_is_refused(tmp_path: Path, read):
    with pytest.raises(StarflowError, match="contains no video"):
        read(with_cover(tmp_path / "a.mp4", None))


PLAYLISTS = ["#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n", "ffconcat version 1.0\nfile a\n", "x\n"]


@pytest.mark.parametrize("text", PLAYLISTS)
@pytest.mark.parametrize("name", ["a.m3u8", "a.txt", "a.mp4"])
def test_text_and_playlists_are_no_videos(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(StarflowError, match="cannot read"):
        read_video(tmp_path / name)


def test_a_heic_picture_is_refused_with_advice(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(StarflowError, match="HEIC picture, which cannot be read: save it as JPEG"):
        read_video(tmp_path / "a.jpg")


def test_a_name_that_looks_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "-clip.mp4", "http:x.mp4", "😀 %d клип.mp4"):
        write_video(name, colored(3), 8)
        assert numbers(Path(name)) == [0, 1, 2]


# --- only what is needed ----------------------------------------------------------------------------------------------


def test_only_the_frames_that_are_needed_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_media(tmp_path / "a.mp4", colored(20))
    decoded, converted = [], []
    decode, to_rgb = containers.decode, containers.to_rgb
    video = open_video(path)
    monkeypatch.setattr(containers, "decode", lambda *args: (decoded.append(1) or each for each in decode(*args)))
    monkeypatch.setattr(containers, "to_rgb", lambda *args: converted.append(1) or to_rgb(*args))
    frames = list(video.frames(4, (24, 32), 3))
    assert [number_of(frame.item) for frame in frames] == [0, 2, 4]
    assert {frame.item.shape for frame in frames} == {(24, 32, 3)}
    assert (len(decoded), len(converted)) == (6, 3)


def test_a_video_can_be_read_again(tmp_path: Path):
    video = open_video(write_media(tmp_path / "a.mp4", colored(3)))
    first = [number_of(frame.item) for frame in islice(video.frames(), 2)]
    assert first == [0, 1]
    assert len(list(video.frames())) == 3


# --- folders ----------------------------------------------------------------------------------------------------------


def frame_folder(folder: Path) -> Path:
    folder.mkdir()
    for number, frame in enumerate(colored(3)):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")
    return folder


def test_hidden_files_of_other_systems_are_ignored(tmp_path: Path):
    folder = frame_folder(tmp_path / "frames")
    for name in ("._00001.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "more.png").mkdir()
    assert numbers(folder) == [0, 1, 2]
    assert read_metadata(folder) == {}


def test_a_folder_of_another_program_has_the_rate_that_is_stated(tmp_path: Path):
    folder = frame_folder(tmp_path / "frames")
    assert open_video(folder).fps == 0
    stated = open_video(folder, 4)
    assert [frame.time for frame in stated.frames()] == [0, 0.25, 0.5]
    assert [number_of(frame.item) for frame in stated.frames(8)] == [0, 0, 1, 1, 2]


def test_a_rate_is_for_folders_only(tmp_path: Path):
    with pytest.raises(UsageError, match="folder of frames only"):
        open_video(write_media(tmp_path / "a.mp4", colored(3)), 8)


@pytest.mark.parametrize(
    ("name", "codec", "group"), [("a.mp4", "libx264", 5), ("a.mkv", "libx264", 250), ("a.webm", "libvpx-vp9", 7)]
)
def test_a_video_is_entered_at_any_time(tmp_path: Path, name: str, codec: str, group: int):
    def set_up(stream) -> None:
        stream.codec_context.gop_size = group

    path = write_media(tmp_path / name, colored(22), 8, codec=codec, set_up=set_up)
    video = open_video(path)
    assert video.last_time() == pytest.approx(21 / 8, abs=0.01)
    assert video.scan() == (22, pytest.approx(21 / 8, abs=0.01))
    whole = list(video.frames())
    for start in range(0, 22, 3):
        entered = list(video.frames(start=start / 8))
        assert [number_of(frame.item) for frame in entered] == list(range(start, 22))
        assert [frame.time for frame in entered] == pytest.approx([index / 8 for index in range(22 - start)], abs=0.01)
        assert all(np.array_equal(a.item, b.item) for a, b in zip(entered, whole[start:], strict=True))
    assert [number_of(frame.item) for frame in video.frames(4, max_frames=3, start=0.5)] == [4, 6, 8]
    assert [number_of(frame.item) for frame in video.frames(start=9)] == [21]


def test_an_animation_is_entered_at_any_time(tmp_path: Path):
    write_video(tmp_path / "a.gif", colored(10), 10)
    video = open_video(tmp_path / "a.gif")
    assert video.last_time() == pytest.approx(0.9)
    assert [number_of(frame.item) for frame in video.frames(start=0.6)] == [6, 7, 8, 9]
    assert [number_of(frame.item) for frame in video.frames(5, start=0.2)] == [2, 4, 6, 8]


@pytest.mark.parametrize("size", [(24, 32), (20, 40), (30, 16), (47, 64), (96, 128), (96, 40)])
def test_a_video_is_scaled_and_cropped_as_a_picture_is(tmp_path: Path, size: tuple[int, int]):
    gradient = np.linspace(20, 230, 64)[None, :] * np.linspace(0.3, 1, 48)[:, None]
    frames = np.repeat(np.stack([gradient, gradient[::-1], gradient[:, ::-1]], -1)[None], 3, 0).astype(np.uint8)
    video = open_video(write_media(tmp_path / "a.mp4", frames, 8))
    scaled = np.stack([frame.item for frame in video.frames(size=size)])
    fitted = fit_frames(np.stack([frame.item for frame in video.frames()]), *size)
    assert scaled.shape == fitted.shape
    assert np.abs(scaled.astype(int) - fitted).mean() < 1.5
