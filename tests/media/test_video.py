import time
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from starflow.errors import StarflowError, UsageError
from starflow.media.video import (
    check_writable,
    contact_sheet,
    read_metadata,
    read_video,
    write_frames,
    write_growing,
    write_video,
)

METADATA = {"prompt": "a red circle — “moves” right\n", "seed": 3, "guidance_scale": 2.5}
NAMES = ["clip.mp4", "clip.gif", "clip.webp", "clip.png", "frames/"]
COLORS = [(220, 30, 30), (30, 200, 40), (40, 60, 230), (230, 210, 40), (150, 50, 180), (240, 240, 240)]


def moving_square(num_frames: int = 17, size: int = 64) -> np.ndarray:
    """A square on a dark background that moves two pixels and changes color in each frame."""
    frames = np.full((num_frames, size, size, 3), 20, np.uint8)
    for t in range(num_frames):
        frames[t, 16:48, 2 * t : 2 * t + 24] = COLORS[t % len(COLORS)]
    return frames


def at(folder: Path, name: str) -> str:
    return f"{folder}/{name}"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf


@pytest.mark.parametrize(("name", "quality"), [*zip(NAMES, [32, 45, 30, np.inf, np.inf], strict=True)])
def test_a_clip_is_read_as_it_was_written(tmp_path, name, quality):
    frames = moving_square()
    written = write_video(at(tmp_path, name), frames, 8, METADATA)
    back, fps = read_video(written)
    assert back.shape == frames.shape
    assert back.dtype == np.uint8
    assert fps == 8
    assert psnr(back, frames) >= quality
    assert read_metadata(written) == METADATA


def test_mp4_is_h264_with_yuv420p_and_keeps_flat_colors(tmp_path):
    frames = moving_square()
    path = write_video(tmp_path / "clip.mp4", frames, 8)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.frames == 17
        assert float(stream.duration * stream.time_base) == 17 / 8
    back, _ = read_video(path)
    for t in range(17):
        color = back[t, 32, 2 * t + 12].astype(int)
        assert np.abs(color - COLORS[t % len(COLORS)]).max() <= 8, (t, color)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_input_gives_the_same_bytes(tmp_path, name):
    contents = []
    for folder in ("a", "b"):
        written = write_video(at(tmp_path / folder, name), moving_square(), 8, METADATA)
        files = sorted(written.iterdir()) if written.is_dir() else [written]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
@pytest.mark.parametrize("fps", [1, 8, 12.5, 16, 24, 30])
def test_frame_rate_and_number_of_frames_are_kept(tmp_path, name, fps):
    path = write_video(tmp_path / name, moving_square(20), fps)
    frames, rate = read_video(path)
    assert len(frames) == 20
    assert rate == pytest.approx(fps)


@pytest.mark.parametrize("name", NAMES)
def test_repeated_frames_are_kept(tmp_path, name):
    frames = moving_square()
    frames[5:] = frames[4]
    back, fps = read_video(write_video(at(tmp_path, name), frames, 8))
    assert (len(back), fps) == (17, 8)
    assert psnr(back[16], frames[16]) > 28

    still = np.repeat(frames[:1], 17, axis=0)
    back, fps = read_video(write_video(at(tmp_path / "still", name), still, 8))
    assert (len(back), fps) == ((1, 0) if name == "clip.webp" else (17, 8))


@pytest.mark.parametrize("name", NAMES)
def test_one_frame_is_a_still_image(tmp_path, name):
    frames = moving_square(1)
    written = write_video(at(tmp_path, name), frames, 0, METADATA)
    assert written == tmp_path / name
    back, fps = read_video(written)
    assert back.shape == frames.shape
    assert psnr(back, frames) > 30
    if not written.is_dir():
        assert fps == 0
    assert read_metadata(written) == METADATA


def test_png_with_several_frames_becomes_a_folder(tmp_path):
    written = write_video(tmp_path / "clip.png", moving_square(3), 8)
    assert written == tmp_path / "clip"
    assert sorted(path.name for path in written.iterdir()) == ["frame_0000.png", "frame_0001.png", "frame_0002.png"]


def test_a_shorter_clip_replaces_a_folder_of_frames(tmp_path):
    write_video(at(tmp_path, "frames/"), moving_square(5), 8)
    written = write_video(at(tmp_path, "frames"), moving_square(3), 8)  # no slash: the folder exists
    assert len(read_video(written)[0]) == 3


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for action in (lambda: write_video(tmp_path, moving_square(2), 8), lambda: check_writable(tmp_path)):
        with pytest.raises(StarflowError, match="contains other files"):
            action()
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_frames_of_a_folder_are_ordered_by_number(tmp_path):
    for value in (2, 10, 1):
        Image.new("RGB", (8, 8), (value, 0, 0)).save(tmp_path / f"shot{value}.png")
    frames, fps = read_video(tmp_path)
    assert frames[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert fps == 0


def test_a_file_of_another_program_has_no_metadata(tmp_path):
    path = tmp_path / "photo.gif"
    Image.new("RGB", (8, 8)).save(path, comment=b"hello \xff")
    assert read_metadata(path) == {}
    assert read_metadata(write_video(tmp_path / "clip.mp4", moving_square(2), 8)) == {}


def write_sound(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip.png"])
@pytest.mark.parametrize("read", [read_video, read_metadata])
def test_missing_empty_and_corrupt_files_are_errors(tmp_path, name, read):
    path = tmp_path / name
    with pytest.raises(StarflowError, match="no such file"):
        read(path)
    path.touch()
    with pytest.raises(StarflowError, match="is empty"):
        read(path)
    path.write_bytes(b"this is not a video" * 50)
    with pytest.raises(StarflowError, match=r"cannot read .* corrupt"):
        read(path)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip.png"])
def test_a_truncated_file_is_an_error(tmp_path, name):
    path = tmp_path / name
    write_video(path, moving_square(1 if name == "clip.png" else 17), 8)
    whole = path.read_bytes()
    for kept in (0.3, 0.6, 0.8):
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(StarflowError, match="cannot read"):
            read_video(path)


def test_a_file_without_video_is_an_error(tmp_path):
    write_sound(tmp_path / "sound.wav")
    with pytest.raises(StarflowError, match="no video"):
        read_video(tmp_path / "sound.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StarflowError, match="no images"):
        read_video(tmp_path / "empty")


def test_images_of_different_sizes_are_an_error(tmp_path):
    for size in (8, 9):
        Image.new("RGB", (size, size)).save(tmp_path / f"{size}.png")
    with pytest.raises(StarflowError, match="different sizes"):
        read_video(tmp_path)


@pytest.mark.parametrize("name", ["clip.avi", "clip", "clip.mp4.txt"])
def test_the_error_of_an_unknown_extension_names_the_known_ones(tmp_path, name):
    for action in (lambda: check_writable(tmp_path / name), lambda: write_video(tmp_path / name, moving_square(2), 8)):
        with pytest.raises(UsageError, match=r"unknown extension .* \.mp4, \.gif, \.webp or \.png"):
            action()


def test_check_writable_finds_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StarflowError, match="cannot write"):
        check_writable(tmp_path / "file" / "clip.mp4")
    check_writable(tmp_path / "new" / "clip.mp4")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.webp", moving_square(2), 8)
    before = path.read_bytes()

    def full_disk(self, file, *args, **kwargs):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_video(path, moving_square(3), 8)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "fps", "rates"),
    [
        ("a.gif", 60, "0.01 to 50"),
        ("a.gif", 200, "0.01 to 50"),
        ("a.webp", 120, "0.01 to 90"),
        ("a.mp4", 0.0001, "0.01 to 1000"),
        ("a.mp4", float("nan"), "must be positive"),
        ("a/", float("inf"), "must be positive"),
    ],
)
def test_a_rate_that_the_format_cannot_store_is_refused_before_the_work(tmp_path, name, fps, rates):
    for refuse in (
        lambda: check_writable(at(tmp_path, name), 3, fps=fps),
        lambda: write_video(at(tmp_path, name), moving_square(3), fps),
    ):
        with pytest.raises(UsageError, match=rates):
            refuse()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fps"),
    [
        *[("a.gif", 0.5), ("a.gif", 33), ("a.gif", 50), ("a.webp", 60), ("a.webp", 90)],
        *[("a.mp4", 0.02), ("a.mp4", 24000 / 1001), ("a.mp4", 120), ("a/", 240)],
    ],
)
def test_the_extreme_rates_are_read_as_they_were_written(tmp_path, name, fps):
    frames, rate = read_video(write_video(at(tmp_path, name), moving_square(12), fps))
    assert (len(frames), rate) == (12, pytest.approx(fps, rel=0.02))


@pytest.mark.parametrize("stem", ["12:30", "-dash", "😀 клип", "a" * 251, "%03d", "a b'c", "#1?x=2"])
@pytest.mark.parametrize("extension", [".mp4", ".gif", ".png"])
def test_legal_names_work(tmp_path, monkeypatch, stem, extension):
    monkeypatch.chdir(tmp_path)
    name = stem + extension
    frames = moving_square(1 if extension == ".png" else 3)
    check_writable(name, len(frames))
    assert write_video(name, frames, 8) == Path(name)
    assert read_video(name)[0].shape == frames.shape
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a" * 252 + ".mp4", "a" * 300 + "/"])
def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, name):
    with pytest.raises(StarflowError, match="File name too long"):
        check_writable(at(tmp_path, name), 3)


def test_odd_sides_no_frame_rate_and_float_frames_are_errors(tmp_path):
    frames = moving_square(2)
    with pytest.raises(UsageError, match="even sides"):
        write_video(tmp_path / "odd.mp4", frames[:, :63], 8)
    with pytest.raises(UsageError, match="frames per second"):
        write_video(tmp_path / "clip.mp4", frames, 0)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "clip.mp4", frames.astype(np.float32), 8)
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet_shows_first_and_last_frame_of_each_clip(tmp_path):
    clips = [moving_square(17), moving_square(3)]
    contact_sheet(clips, tmp_path / "sheet.png", labels=["a", "a caption far too long for the sheet " * 9], columns=5)
    (sheet,), _ = read_video(tmp_path / "sheet.png")
    size, gap, label = 128, 2, 22  # 64 pixels enlarged twice
    assert sheet.shape == (2 * (size + gap + label), 5 * size + 4 * gap, 3)
    top = label
    for clip, shown in zip(clips, [5, 3], strict=True):
        for column, frame in [(0, clip[0]), (shown - 1, clip[-1])]:
            left = column * (size + gap)
            assert np.array_equal(sheet[top : top + size : 2, left : left + size : 2], frame)
        top += size + gap + label
    assert (sheet[:label] < 128).any(), "the label is drawn"


def test_a_contact_sheet_of_many_clips_is_a_grid(tmp_path):
    clips = [np.full((3, 96, 96, 3), 10 * number, np.uint8) for number in range(24)]
    contact_sheet(clips, tmp_path / "sheet.png", labels=["a caption"] * 24)
    (sheet,), _ = read_video(tmp_path / "sheet.png")
    height, width = sheet.shape[:2]
    assert 0.5 < height / width <= 1
    seen = {int(value) for value in np.unique(sheet[:, ::10, 0])}
    assert seen >= set(range(0, 240, 10)), "every clip is shown"


def test_a_long_label_is_cut_at_once(tmp_path):
    start = time.process_time()
    for label in ("a red circle moves right and " * 1000, "w" * 30_000, "\u200b" * 30_000, "", " \n "):
        contact_sheet(moving_square(4), tmp_path / "sheet.png", labels=[label])
    assert time.process_time() - start < 1


def test_contact_sheet_of_one_clip_without_labels(tmp_path):
    contact_sheet(moving_square(4, size=128), tmp_path / "sheet.png", columns=4)
    assert read_video(tmp_path / "sheet.png")[0].shape == (1, 130, 4 * 130 - 2, 3)
    with pytest.raises(UsageError, match=r"\.png"):
        contact_sheet(moving_square(4), tmp_path / "sheet.jpg")


# ---------------------------------------------------------------------------------------------------- growing files


def test_a_growing_file_can_be_read_after_each_frame(tmp_path):
    path, clip = tmp_path / "clip.mp4", _gradient_clip(9)
    readable = []

    def frames():
        for index, frame in enumerate(clip):
            if index > 1:  # the muxer writes a frame when it gets the next one
                readable.append(len(read_video(path)[0]))
            yield frame

    assert write_growing(path, frames(), 8, {"prompt": "x"}) == path
    assert readable == [1, 2, 3, 4, 5, 6, 7]
    whole, fps = read_video(path)
    assert fps == 8
    assert np.abs(whole.astype(int) - clip).mean() < 4
    assert read_metadata(path) == {"prompt": "x"}


def test_an_interrupted_growing_file_keeps_the_frames_so_far(tmp_path):
    path, clip = tmp_path / "clip.mp4", _gradient_clip(9)

    def frames():
        yield from clip[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_growing(path, frames(), 8)
    assert len(read_video(path)[0]) == 5


def test_an_interrupted_file_that_does_not_grow_is_not_written(tmp_path):
    def frames():
        yield from _gradient_clip(5)
        raise KeyboardInterrupt

    for name in ("clip.mp4", "clip.gif", "frames/"):
        with pytest.raises(KeyboardInterrupt):
            write_frames(f"{tmp_path}/{name}", frames(), 9, 8)
    assert list(tmp_path.iterdir()) == []


def test_only_mp4_can_grow(tmp_path):
    with pytest.raises(UsageError, match=r"only an \.mp4"):
        write_growing(tmp_path / "clip.gif", iter(_gradient_clip(2)), 8)
    with pytest.raises(UsageError, match=r"only an \.mp4"):
        check_writable(tmp_path / "clip.gif", 2, growing=True)


def _gradient_clip(num_frames):
    rows, columns = np.mgrid[0:32, 0:32]
    return np.stack([np.stack([rows * 4, columns * 4, rows * 0 + 9 * i], -1) for i in range(num_frames)]).astype(
        np.uint8
    )
