from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from starflow.cli.main import run
from starflow.media.video import read_metadata, read_video, write_video
from starflow.pipeline.stages import VideoStream
from tiny_pipeline import CAPTIONS


def generate(model: str, *arguments: str) -> int:
    return run(["generate", "--model", model, *arguments])


def test_a_video_its_metadata_and_the_summary(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, sheet = tmp_path / "clip.mp4", tmp_path / "sheet.png"
    assert generate(model, CAPTIONS[0], "-o", str(path), "--seed", "3", "--contact-sheet", str(sheet)) == 0
    frames, fps = read_video(path)
    assert frames.shape == (9, 32, 32, 3)
    assert fps == 8
    metadata = read_metadata(path)
    assert metadata["prompt"] == CAPTIONS[0]
    assert metadata["seed"] == 3
    assert sheet.stat().st_size > 0
    captured = capsys.readouterr()
    loading, loaded, making, sampling, decoding = captured.err.splitlines()
    assert loading == f"loading {model} ..."
    assert loaded.startswith(f"{model}: loaded in ")
    assert making == f"making {path}"
    assert sampling == f"{path}: sampling: latent frame 1 of 3"
    assert decoding == f"{path}: denoising and decoding: frame 1 of 9"
    (line,) = captured.out.splitlines()
    assert str(path) in line
    assert "32×32" in line
    assert "9 frames" in line
    assert "sweeps" in line


def test_the_same_seed_gives_the_same_file(model: str, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        assert generate(model, CAPTIONS[0], "-o", str(tmp_path / name)) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_file_of_prompts_makes_one_video_per_line(model: str, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"# a comment\n\n{CAPTIONS[0]}\nsomething else: ünïcode!\n")
    assert generate(model, "--prompts", str(prompts), "-o", str(tmp_path / "clips"), "--seed", "5") == 0
    files = sorted((tmp_path / "clips").iterdir())
    assert [read_metadata(file)["seed"] for file in files] == [5, 6]
    assert generate(model, CAPTIONS[0], "-o", str(tmp_path / "alone.mp4"), "--seed", "5") == 0
    assert (tmp_path / "alone.mp4").read_bytes() == files[0].read_bytes()


def test_samples_of_each_prompt_have_seeds_and_names_of_their_own(model: str, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{CAPTIONS[0]}\n{CAPTIONS[1]}\n")
    arguments = ["--samples", "2", "--name", "{prompt}-{index}", "--num-frames", "1", "-o", str(tmp_path / "clips")]
    assert generate(model, "--prompts", str(prompts), *arguments) == 0
    stored = {file.name: read_metadata(file) for file in (tmp_path / "clips").iterdir()}
    assert {name: (about["prompt"], about["seed"]) for name, about in stored.items()} == {
        f"{prompt}-{index}.mp4": (prompt, 2 * number + index)
        for number, prompt in enumerate(CAPTIONS[:2])
        for index in range(2)
    }


def test_only_what_starflow_made_is_replaced(model: str, tmp_path: Path, capsys):
    for name in ("clip.mp4", "frames/"):
        for _ in range(2):
            assert generate(model, CAPTIONS[0], "--num-frames", "5", "-o", f"{tmp_path}/{name}") == 0
    mine = write_video(tmp_path / "mine.mp4", np.zeros((2, 32, 32, 3), np.uint8), 8)
    content = mine.read_bytes()
    frames = write_video(f"{tmp_path}/others/", np.zeros((2, 32, 32, 3), np.uint8), 8)
    sheet = write_video(tmp_path / "sheet.png", np.zeros((1, 32, 32, 3), np.uint8), 0)
    for arguments in (
        ["-o", str(mine)],
        ["-o", f"{frames}/"],
        ["--contact-sheet", str(sheet), "-o", f"{tmp_path}/a.mp4"],
    ):
        assert generate(model, CAPTIONS[0], *arguments) == 1
        assert "exists and is not from starflow" in capsys.readouterr().err
    assert mine.read_bytes() == content
    assert len(list(frames.iterdir())) == 2


def test_an_input_is_not_replaced(model: str, tmp_path: Path, capsys):
    path = str(tmp_path / "clip.mp4")
    assert generate(model, CAPTIONS[0], "-o", path) == 0
    assert generate(model, CAPTIONS[0], "--video", path, "-o", path) == 2
    assert "is given as an input" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "frames/"])
def test_output_formats(model: str, tmp_path: Path, name: str):
    assert generate(model, CAPTIONS[0], "-o", f"{tmp_path}/{name}") == 0
    assert len(read_video(tmp_path / name)[0]) == 9


def test_one_frame_is_an_image(model: str, tmp_path: Path):
    assert generate(model, CAPTIONS[0], "--num-frames", "1", "-o", str(tmp_path / "image.png")) == 0
    assert read_video(tmp_path / "image.png")[0].shape == (1, 32, 32, 3)


def test_an_impossible_number_of_frames_is_rounded_and_reported(model: str, tmp_path: Path, capsys):
    assert generate(model, CAPTIONS[0], "--num-frames", "12", "-o", str(tmp_path / "clip.mp4")) == 0
    assert "cannot make 12 frames: making 13" in capsys.readouterr().err
    assert len(read_video(tmp_path / "clip.mp4")[0]) == 13


def test_any_text_can_be_a_prompt(model: str, tmp_path: Path):
    assert generate(model, "Ein Pferd auf dem Mond 🐎", "-o", str(tmp_path / "clip.mp4")) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([""], 2, "prompt is empty"),
        ([], 2, "give a prompt"),
        (["x", "--prompts", "y.txt"], 2, "not both"),
        (["x", "-o", "clip.xyz"], 2, "xyz"),
        (["x", "--num-frames", "0"], 2, "num-frames"),
        (["x", "--device", "toaster"], 2, "toaster"),
        (["x", "-o", "/proc/nowhere/clip.mp4"], 1, "/proc/nowhere"),
        (["--prompts", "missing.txt", "-o", "clips"], 1, "missing.txt"),
    ],
)
def test_bad_input_is_one_clear_error(
    model: str, arguments: list[str], status: int, message: str, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert generate(model, *arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_missing_model_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert generate(str(tmp_path / "no"), "x", "-o", str(tmp_path / "clip.mp4")) == 1
    assert "no model at" in capsys.readouterr().err
    assert not (tmp_path / "clip.mp4").exists()


# --- images and clips given, long videos, streams ---------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    return write_video(tmp_path / "source.mp4", frames, 8)


@pytest.mark.parametrize(
    ("option", "num_frames"), [("--image", 9), ("--last-image", 9), ("--video", 9), ("--extend", 17)]
)
def test_images_and_clips_given_change_the_video(
    model: str, tmp_path: Path, source: Path, option: str, num_frames: int
):
    for name, arguments in (("with.mp4", [option, str(source)]), ("without.mp4", [])):
        assert generate(model, CAPTIONS[0], "-o", str(tmp_path / name), *arguments) == 0
    frames = read_video(tmp_path / "with.mp4")[0]
    assert frames.shape == (num_frames, 32, 32, 3)
    assert (frames[:9] != read_video(tmp_path / "without.mp4")[0]).any()
    assert read_metadata(tmp_path / "with.mp4")[option.strip("-").replace("-", "_")] == str(source)


def test_a_folder_of_frames_of_another_program(model: str, tmp_path: Path, capsys):
    for index, frame in enumerate(np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "frames" / f"{index:05d}.png")
    arguments = ["--video", str(tmp_path / "frames"), "-o", str(tmp_path / "clip.mp4")]
    assert generate(model, CAPTIONS[0], *arguments) == 0
    assert "its frames are taken to be at the 8 fps" in capsys.readouterr().err
    assert len(read_video(tmp_path / "clip.mp4")[0]) == 9
    assert generate(model, CAPTIONS[0], *arguments, "--input-fps", "16") == 0
    assert "16 fps: resampled to the 8 fps" in capsys.readouterr().err
    assert len(read_video(tmp_path / "clip.mp4")[0]) == 5
    assert generate(model, CAPTIONS[0], "--input-fps", "16") == 2
    assert "--input-fps is the frame rate of a folder" in capsys.readouterr().err


def test_a_clip_of_another_size_rate_and_length_is_fitted_and_reported(model: str, tmp_path: Path, capsys):
    frames = np.random.default_rng(0).integers(0, 256, (14, 48, 64, 3), dtype=np.uint8)
    source = write_video(tmp_path / "source.mp4", frames, 16)
    assert generate(model, CAPTIONS[0], "--video", str(source), "-o", str(tmp_path / "clip.mp4")) == 0
    reported = capsys.readouterr().err
    assert "64×48: scaled and cropped to 32×32" in reported
    assert "16 fps: resampled to the 8 fps" in reported
    assert "has 7 frames: the last 2 are left out" in reported
    assert len(read_video(tmp_path / "clip.mp4")[0]) == 5


@pytest.mark.parametrize(
    ("arguments", "shape"), [(["--size", "64x32"], (32, 64)), (["--aspect-ratio", "4:1"], (16, 64))]
)
def test_size_and_aspect_ratio(model: str, tmp_path: Path, arguments: list[str], shape: tuple[int, int]):
    path = tmp_path / "clip.mp4"
    assert generate(model, CAPTIONS[0], "-o", str(path), *arguments) == 0
    assert read_video(path)[0].shape == (9, *shape, 3)
    assert read_metadata(path)["width"] == shape[1]


def test_seconds_and_context(model: str, tmp_path: Path, capsys):
    path = tmp_path / "clip.mp4"
    assert generate(model, CAPTIONS[0], "--seconds", "3", "--context", "1", "-o", str(path)) == 0
    assert len(read_video(path)[0]) == 25
    assert "cannot make 24 frames: making 25" in capsys.readouterr().err


def test_a_stream_is_a_fragmented_file_with_the_same_frames(model: str, tmp_path: Path):
    for name, arguments in (("whole.mp4", []), ("stream.mp4", ["--stream"])):
        assert generate(model, CAPTIONS[0], "-o", str(tmp_path / name), *arguments) == 0
    whole, stream = (read_video(tmp_path / name)[0].astype(int) for name in ("whole.mp4", "stream.mp4"))
    assert np.abs(whole - stream).mean() < 6  # of 255: the encoder's settings differ
    assert b"moof" in (tmp_path / "stream.mp4").read_bytes()
    assert b"moof" not in (tmp_path / "whole.mp4").read_bytes()


def test_an_interrupted_stream_keeps_its_first_frames(model: str, tmp_path: Path, capsys, monkeypatch):
    made, real = [], VideoStream.__next__

    def interrupt(stream: VideoStream):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(real(stream))
        return made[-1]

    monkeypatch.setattr(VideoStream, "__next__", interrupt)
    path = tmp_path / "clip.mp4"
    assert generate(model, CAPTIONS[0], "--stream", "-o", str(path)) == 130
    assert len(read_video(path)[0]) == 5
    assert "the first 5 of 9 frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--image", "missing.png"], 2, "missing.png"),
        (["--image", "empty.png"], 1, "0 bytes"),
        (["--video", "image.png"], 1, "still image"),
        (["--video", "sound.mp4"], 1, "no video"),
        (["--video", "text.mp4"], 1, "corrupt"),
        (["--video", "source.mp4", "--image", "image.png"], 2, "exclude each other"),
        (["--video", "source.mp4", "--num-frames", "5"], 2, "as long as its source"),
        (["--video", "long.mp4"], 2, "at most the 9 frames"),
        (["--extend", "source.mp4", "--num-frames", "9"], 2, "longer"),
        (["--extend", "source.mp4", "--num-frames", "5"], 2, "longer"),
        (["--stream", "-o", "clip.gif"], 2, "only an .mp4"),
        (["--seconds", "2", "--num-frames", "9"], 2, "not both"),
        (["--size", "32x32", "--aspect-ratio", "1:1"], 2, "not both"),
        (["--size", "30x30"], 2, "multiples of 16 pixels"),
        (["--size", "large"], 2, "848x480"),
        (["--seconds", "4", "--context", "3"], 2, "context"),
    ],
)
def test_bad_images_clips_and_lengths_are_one_clear_error(
    model: str, tmp_path: Path, source: Path, arguments: list[str], status: int, message: str, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_video("image.png", np.zeros((1, 32, 32, 3), np.uint8), 0)
    write_video("long.mp4", np.zeros((13, 32, 32, 3), np.uint8), 8)
    Path("empty.png").touch()
    Path("text.mp4").write_text("not a video")
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    assert generate(model, CAPTIONS[0], *arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("video.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", str(2**64)], "0<=x<=18446744073709551615"),
        (["--seconds", "inf"], "not a finite number"),
        (["--seconds", "nan"], "not a finite number"),
        (["--guidance-scale", "nan"], "not a finite number"),
        (["--fps", "inf"], "not a finite number"),
    ],
)
def test_numbers_out_of_range_are_refused(model: str, arguments: list[str], message: str, capsys):
    assert generate(model, CAPTIONS[0], *arguments) == 2
    assert message in capsys.readouterr().err


def test_seeds_of_many_prompts_wrap_around(model: str, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    arguments = ["--seed", str(2**64 - 1), "--num-frames", "1", "-o", str(tmp_path / "clips")]
    assert generate(model, "--prompts", str(prompts), *arguments) == 0
    files = sorted((tmp_path / "clips").iterdir())
    assert [read_metadata(file)["seed"] for file in files] == [2**64 - 1, 0]


def test_a_prompt_that_is_not_text_is_one_clear_error(model: str, capsys):
    assert generate(model, b"a red \xff circle".decode("utf-8", "surrogateescape")) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_the_stored_prompt_is_normalized(model: str, tmp_path: Path):
    assert generate(model, f" {CAPTIONS[0]}\n", "--num-frames", "1", "-o", str(tmp_path / "image.png")) == 0
    assert read_metadata(tmp_path / "image.png")["prompt"] == CAPTIONS[0]
