import numpy as np
import pytest

from starflow.errors import UsageError
from starflow.worlds.episodes import load_episode
from starflow.worlds.evaluation.training import Library, shrink
from starflow.worlds.source import Episodes


@pytest.fixture(scope="module")
def library(training: Episodes) -> Library:
    return Library.of(training)


def test_distances_are_those_of_the_nearest_frame(library: Library):
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    differences = shrink(frames)[:, None] - library.small
    expected = 255 * np.sqrt(np.square(differences).mean(axis=2).min(axis=1))
    np.testing.assert_allclose(library.distances(frames), expected, rtol=1e-3)


def test_training_frames_are_their_own_neighbours(library: Library, training: Episodes):
    episode = load_episode(training.files[-1])
    assert library.distances(episode.frames).max() < 0.5
    found = library.continuation(episode.frames[10:18], 6)
    assert np.array_equal(found, episode.frames[18:24])


def test_a_continuation_repeats_the_last_frame_of_its_episode(library: Library, training: Episodes):
    frames = load_episode(training.files[-1]).frames
    found = library.continuation(frames[-9:-1], 5)
    assert np.array_equal(found, np.stack([frames[-1]] * 5))


def test_a_context_never_spans_two_episodes(library: Library, training: Episodes):
    one, other = (load_episode(training.files[number]).frames for number in (0, 1))
    across = np.concatenate([one[-4:], other[:4]])
    found = library.continuation(across, 1)
    assert not np.array_equal(found[0], other[4])
    with pytest.raises(UsageError, match="no training episode has more than 100 frames"):
        library.continuation(np.repeat(across, 13, axis=0)[:100], 1)
