"""`starflow rollout` with a tiny model that is played."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from play_helpers import tiny_game, tiny_starts
from starflow.cli.main import run
from starflow.media.video import read_metadata, read_video

ACTIONS = "0 0\n\n1, 1\n2 0\n"


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "game"
    torch.manual_seed(0)
    tiny_game().save_pretrained(folder)
    (folder / "starts").mkdir()
    start = tiny_starts()[0]
    path = folder / "starts" / "hall.safetensors"
    save_file({"frames": start.frames, "actions": start.actions}, path, {"caption": start.prompt})
    return folder


@pytest.fixture
def actions(tmp_path: Path) -> Path:
    path = tmp_path / "actions.txt"
    path.write_text(ACTIONS)
    return path


def roll(game: Path | str, actions: Path, name: str, *more: str) -> np.ndarray:
    output = f"{actions.parent}/{name}"
    assert run(["rollout", str(game), "--actions", str(actions), "-o", str(output), *more]) == 0
    return read_video(output)[0]


def test_a_rollout_is_what_a_session_shows(game: Path, actions: Path):
    frames = roll(game, actions, "frames/")
    session = tiny_starts()[0].session(
        type(tiny_game()).from_pretrained(game), generator=torch.Generator().manual_seed(0)
    )
    expected = [session.frames, *(session.step(each) for each in ([0, 0], [1, 1], [2, 0]))]
    assert np.array_equal(frames, np.concatenate(expected))
    assert read_metadata(actions.parent / "frames")["start"] == "hall"


def test_the_seed_the_start_and_the_caption_matter(game: Path, actions: Path):
    picture, clip = actions.parent / "picture.png", roll(game, actions, "clip.mp4")
    Image.fromarray(clip[0]).save(picture)
    start = str(game / "starts" / "hall.safetensors")
    made = [
        roll(game, actions, "plain/"),
        roll(game, actions, "seed/", "--seed", "1"),
        roll(game, actions, "caption/", "--prompt", "a blue square grows"),
        roll(game, actions, "image/", "--image", str(picture)),
        roll(game, actions, "of-clip/", "--clip", str(actions.parent / "clip.mp4")),
    ]
    assert all(len(each) == 4 for each in made)
    for index, one in enumerate(made):
        assert not any(np.array_equal(one, other) for other in made[:index])
    for number, name in enumerate(("hall", start)):
        assert np.array_equal(roll(game, actions, f"start-{number}/", "--start", name), made[0])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0 0\n\n1 3\n", "line 3: component 1 of an action must be a whole number from 0 to 1, not 3"),
        ("0 0\n0.5 0\n", "line 2: component 0 of an action must be a whole number from 0 to 2, not 0.5"),
        ("nan 0\n", "line 1: actions must be finite"),
        ("0 0\n0 inf\n", "line 2: actions must be finite"),
        ("0 0\n0\n", "line 2: an action of this model has 2 numbers, not 1"),
        ("0 0\n0 0 0\n", "line 2: an action of this model has 2 numbers, not 3"),
        ("0 0\nleft\n", "line 2: an action is numbers such as 0 1, not 'left'"),
        ("\n\n", "holds no actions"),
    ],
)
def test_a_bad_action_is_one_line_that_names_its_line(
    game: Path, actions: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
):
    actions.write_text(text)
    output = actions.parent / "clip.mp4"
    assert run(["rollout", str(game), "--actions", str(actions), "-o", str(output)]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert str(actions) in error and problem in error
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--start", "hall", "--image", "ACTIONS"], "exclude each other"),
        (["--start", "cellar"], "no start 'cellar': the starts of this model are hall"),
        (["--image", "ACTIONS"], "actions.txt"),
        (["-o", "clip.txt"], "clip.txt"),
    ],
)
def test_other_wrong_usage_is_one_line(
    game: Path, actions: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
):
    arguments = [str(actions) if each == "ACTIONS" else each for each in arguments]
    output = ["-o", str(actions.parent / "clip.mp4")]
    assert run(["rollout", str(game), "--actions", str(actions), *output, *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert problem in error and "Traceback" not in error


def test_a_model_without_actions_says_so(model: str, actions: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["rollout", model, "--actions", str(actions), "-o", str(actions.parent / "clip.mp4")]) == 2
    assert "this model takes no actions" in capsys.readouterr().err


def test_info_shows_the_actions_of_a_model(game: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["info", str(game)]) == 0
    output = capsys.readouterr().out
    assert "action, number 0: a whole number from 0 to 2 (1 left, 2 right)" in output
    assert "action, number 1: a whole number from 0 to 1 (1 shoot)" in output
