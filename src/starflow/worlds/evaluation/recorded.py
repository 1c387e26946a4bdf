"""Episodes to measure on, recorded if nobody gives any. They are those of recipes/freedoom with the same seeds."""

from collections.abc import Sequence
from pathlib import Path

from starflow.worlds.episodes import read_about, record_missing
from starflow.worlds.source import Episodes

SCENARIOS = ("basic", "take_cover")
MAX_FRAMES = 128
HELD_OUT_SEEDS = range(100_000, 100_020)
TRAINING_SEEDS = range(100)  # a part of the training episodes


def held_out_and_training(data: Episodes | None, training: Episodes | None, folder: Path) -> tuple[Episodes, Episodes]:
    """The given episodes. What is not given is recorded into a folder, in the scenarios of the other ones."""
    scenarios = scenarios_of(data or training)
    held_out = data or _record(folder / "test", scenarios, HELD_OUT_SEEDS)
    return held_out, training or _record(folder / "train", scenarios, TRAINING_SEEDS)


def scenarios_of(source: Episodes | None) -> Sequence[str]:
    """The scenarios of some episodes, by default `SCENARIOS`."""
    return SCENARIOS if source is None else sorted({read_about(file)["scenario"] for file in source.files})


def _record(folder: Path, scenarios: Sequence[str], seeds: range) -> Episodes:
    for scenario in scenarios:
        record_missing(scenario, folder, seeds, MAX_FRAMES)
    return Episodes(str(folder))
