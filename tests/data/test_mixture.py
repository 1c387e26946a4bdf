from pathlib import Path

import numpy as np
import pytest

from clip_sources import write_clip
from starflow.data.clip import clip_identity
from starflow.data.loader import ClipLoader
from starflow.data.mixture import SourceMixture, clip_weights
from starflow.data.reading import open_clip
from starflow.data.sources import build_source
from starflow.errors import UsageError


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    for number in range(3):
        write_clip(tmp_path / "a" / f"{number}.mp4", f"clip {number}", 5, 32, 32, 8, seed=number)
    write_clip(tmp_path / "b" / "picture.png", "a picture", 1, 32, 32, 0)
    (tmp_path / "b" / "silent.png").write_bytes(b"")
    return [
        {"source": "folder", "path": str(tmp_path / "a")},
        {"source": "folder", "path": str(tmp_path / "b")},
        {"source": "toyworld", "num_clips": 2},
    ]


def weights_of(mixture: SourceMixture, counts: list[int]) -> list[float]:
    return clip_weights(mixture, np.array(counts)).tolist()


def test_the_clips_of_all_sources_follow_each_other(sources: list[dict]):
    mixture = build_source({"source": "mixture", "sources": sources})
    assert len(mixture) == 6
    assert [mixture[index].captions[0] for index in range(4)] == ["clip 0", "clip 1", "clip 2", "a picture"]
    assert len(mixture.left_out) == 1 and "no caption in silent.txt" in mixture.left_out[0]
    parts = [build_source(source) for source in sources]
    assert clip_identity(mixture, 3) == clip_identity(parts[1], 0)
    assert clip_identity(mixture, 5) == clip_identity(parts[2], 1)
    with open_clip(mixture, 1, 8) as clip:
        assert clip.name.endswith("a/1.mp4")
    assert weights_of(mixture, [1] * 6) == [1.0] * 6


def test_weights_are_shares_of_the_sources_and_repeats_of_their_clips(sources: list[dict]):
    weighted = [source | {"weight": weight} for source, weight in zip(sources, (0.6, 0.3, 0.1), strict=True)]
    assert weights_of(SourceMixture(weighted), [1, 1, 1, 1, 1, 1]) == pytest.approx([0.2] * 3 + [0.3] + [0.05] * 2)
    assert weights_of(SourceMixture(weighted), [4, 2, 0, 1, 1, 1]) == pytest.approx([0.1] * 3 + [0.3] + [0.05] * 2)
    repeated = [sources[0] | {"repeats": 2.5}, *sources[1:]]
    assert weights_of(SourceMixture(repeated), [1] * 6) == [2.5] * 3 + [1.0] * 3


def test_the_loader_draws_clips_by_their_weights(sources: list[dict]):
    mixture = SourceMixture([sources[0] | {"weight": 1}, sources[2] | {"weight": 3}])
    loader = ClipLoader(mixture, range(5), fps=8, height=16, width=16)
    drawn = [loader._reader._index(position) for position in range(2000)]
    assert sum(index >= 3 for index in drawn) / 2000 == pytest.approx(0.75, abs=0.04)
    assert loader.excerpts(0, 4, 5).shape == (4, 5, 3, 16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "a list of sources"),
        (["folder"], "a list of sources"),
        ([{"weight": 1}, {}], "every source of the mixture a weight, or none"),
        ([{"weight": -1}], "weight of a source must be a number above 0, not -1"),
        ([{"repeats": "often"}], "repeats of a source must be a number above 0"),
        ([{"weight": 1, "repeats": 2}], "weights or repeats, not both"),
        ([{"source": "foldr"}], "did you mean folder"),
    ],
)
def test_mistakes_are_usage_errors(sources: list[dict], change: list, message: str):
    configs = [sources[2] | each if isinstance(each, dict) else each for each in change]
    with pytest.raises(UsageError, match=message):
        SourceMixture(configs)
