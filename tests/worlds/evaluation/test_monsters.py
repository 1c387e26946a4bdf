import numpy as np
import pytest

from starflow.worlds.episodes import load_episode
from starflow.worlds.evaluation import networks
from starflow.worlds.evaluation.detector import cells, train_detector
from starflow.worlds.evaluation.monsters import compare
from starflow.worlds.source import Episodes

NAMES = np.array(["a", "b"])


def test_cells_are_covered_by_half():
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[0, 2:4, 4] = 255  # half of a cell
    pixels[0, 10, 10] = 255  # a quarter of one
    assert np.argwhere(cells(pixels)).tolist() == [[0, 1, 2]]


def test_the_comparison_of_known_cells():
    truth = np.zeros((2, 32, 32), bool)
    truth[:, 10:12, 10:14] = True
    found = truth.copy()
    found[0, 10:12] = np.roll(truth[0, 10:12], 2, axis=1)  # 4 pixels to the right
    found[1] = False
    results = compare(found, truth, NAMES)
    assert results["precision"]["value"] == 0.5 and results["recall"]["value"] == 0.25
    assert results["place_error"]["value"] == 4 and results["place_error"]["n"] == 1
    assert results["size_ratio"]["value"] == 0.5
    nothing = compare(np.zeros_like(truth), truth, NAMES)
    assert nothing["precision"]["value"] is nothing["place_error"]["value"] is None


def test_a_detector_finds_monsters_that_it_has_seen(training: Episodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(networks, "NUM_STEPS", 80)
    monkeypatch.setattr(networks, "BATCH_SIZE", 16)
    episode = max((load_episode(file) for file in training.files), key=lambda each: each.monsters.mean())
    found, truth = train_detector([episode]).find(episode.frames[None])[0], cells(episode.monsters)
    results = compare(found, truth, np.array([str(number) for number in range(len(found))]))
    assert results["recall"]["value"] > 0.5 and results["precision"]["value"] > 0.2
