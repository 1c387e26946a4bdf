from pathlib import Path

import numpy as np
import pytest

from made_media import write_media
from starflow.data import shots as shots_module
from starflow.data.fitting import ClipFormat, find_excerpts, read_excerpt
from starflow.data.folder import ClipFolder
from starflow.data.shots import find_shots, require_scenedetect
from starflow.errors import StarflowError
from starflow.media.video import open_video


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots of different brightness at 24 fps."""
    shots = [np.full((length, 64, 96, 3), value, np.uint8) for length, value in ((30, 40), (24, 200), (40, 110))]
    folder = tmp_path_factory.mktemp("film")
    (folder / "film.txt").write_text("three shots")
    return write_media(folder / "film.mp4", np.concatenate(shots), 24)


def test_the_shots_of_a_film_are_found(film: Path):
    starts, ends = [0, 30, 54], [29, 53, 93]
    found = find_shots(open_video(film))
    assert [round(start * 24) for start, _ in found] == starts
    assert [round(last * 24) for _, last in found] == ends


def test_each_shot_is_a_clip_that_does_not_cross_a_cut(film: Path):
    source, to = ClipFolder(str(film.parent)), ClipFormat(5, 8, 32, 48, frames="chunks", shots=True)
    excerpts = find_excerpts(source, 0, to)
    clips = [read_excerpt(source, 0, excerpt, to).video for excerpt in excerpts]
    assert [excerpt.num_frames for excerpt in excerpts] == [5, 5, 5, 5, 5]
    assert [round(float(clip.mean()), -1) for clip in clips] == [40, 40, 200, 110, 110]
    assert all(clip.std() < 3 for clip in clips)
    head = ClipFormat(5, 8, 32, 48, shots=True)
    assert [excerpt.num_frames for excerpt in find_excerpts(source, 0, head)] == [10, 8, 14]


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shots_module, "find_spec", lambda _: None)
    with pytest.raises(StarflowError, match=r"pip install -c constraints.txt -e '.\[shots\]'"):
        require_scenedetect()
