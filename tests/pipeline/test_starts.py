"""The starts of a model: files in its folder."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from starflow.errors import StarflowError, UsageError
from starflow.flow.actions import ActionSpace
from starflow.pipeline.starts import Start, find_start, load_start, starts_of
from tiny_pipeline import playable_pipeline

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
ACTIONS = np.array([[0], [1], [2]], np.uint8)


def write(folder: Path, name: str = "hall", about: dict | None = None, **tensors: np.ndarray) -> Path:
    path = folder / "starts" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, about)
    return path


def test_a_start_has_frames_actions_and_a_caption(tmp_path: Path):
    path = write(tmp_path, about={"caption": "a red circle moves right"}, frames=FRAMES, actions=ACTIONS)
    start = load_start(path)
    assert (start.name, start.prompt) == ("hall", "a red circle moves right")
    session = start.session(playable_pipeline(ActionSpace(sizes=(3,))))
    assert session.frames.shape == (1, 32, 32, 3)
    with pytest.raises(UsageError, match="a whole number from 0 to 1, not 2"):
        start.session(playable_pipeline(ActionSpace(sizes=(2,))))


def test_a_start_may_have_frames_only_or_nothing(tmp_path: Path):
    start = load_start(write(tmp_path, frames=FRAMES))
    assert (start.prompt, start.actions) == ("", None)
    pipeline = playable_pipeline(ActionSpace(sizes=(3,)))
    assert start.session(pipeline).frames.shape == Start("").session(pipeline).frames.shape


def test_starts_are_found_by_name_and_by_path(tmp_path: Path):
    paths = [write(tmp_path, name, frames=FRAMES) for name in ("b", "a")]
    assert starts_of(tmp_path) == paths[::-1]
    assert find_start(tmp_path, "b") == find_start(tmp_path / "elsewhere", str(paths[0])) == paths[0]
    with pytest.raises(UsageError, match="no start 'c': the starts of this model are a, b"):
        find_start(tmp_path, "c")
    with pytest.raises(UsageError, match="the starts of this model are none"):
        find_start(tmp_path / "elsewhere", "c")


def test_other_files_are_one_clear_error(tmp_path: Path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nonsense")
    for path in (damaged, tmp_path / "missing.safetensors"):
        with pytest.raises(StarflowError, match="cannot read the start"):
            load_start(path)
    for tensors in ({"latents": FRAMES}, {"frames": FRAMES[0]}, {"frames": FRAMES[:0]}, {"frames": FRAMES / 255}):
        with pytest.raises(StarflowError, match="is no start: it needs frames"):
            load_start(write(tmp_path, **tensors))


def test_a_recorded_episode_is_a_start(tmp_path: Path):
    from starflow.worlds.episodes import Episode, save_episode

    tensors = {"frames": FRAMES, "actions": ACTIONS, "monsters": FRAMES[..., 0], "poses": np.zeros((3, 3), np.float32)}
    start = load_start(save_episode(Episode("basic", 7, "random", "a hall", **tensors), tmp_path))
    assert (start.name, start.prompt) == ("basic-000007", "a hall")
    assert np.array_equal(start.frames, FRAMES)
    assert np.array_equal(start.actions, ACTIONS)
