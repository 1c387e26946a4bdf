"""A tiny model of the game, and a few recorded episodes."""

import pytest
import torch

from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.worlds.evaluation.clips import game_clips
from starflow.worlds.evaluation.material import Material
from starflow.worlds.game import ACTION_SPACE, FPS
from starflow.worlds.source import Episodes
from tiny_pipeline import playable_pipeline

pytest.importorskip("vizdoom", reason="the extra worlds is not installed")

from starflow.worlds.episodes import record_missing

MAX_FRAMES = 48


@pytest.fixture(scope="session")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return playable_pipeline(ACTION_SPACE, num_frames=12, fps=FPS, height=64, width=64, max_text_tokens=64)


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    folder = tmp_path_factory.mktemp("held-out")
    record_missing("basic", folder, range(100_000, 100_003), MAX_FRAMES)
    record_missing("take_cover", folder, range(100_000, 100_002), MAX_FRAMES)
    return Episodes(str(folder))


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    folder = tmp_path_factory.mktemp("training")
    record_missing("basic", folder, range(4), MAX_FRAMES)
    record_missing("take_cover", folder, range(2), MAX_FRAMES)
    return Episodes(str(folder))


@pytest.fixture(scope="session")
def material(pipeline: StarFlowPipeline, held_out: Episodes, training: Episodes) -> Material:
    return Material(pipeline, game_clips(held_out, 6), training, EvaluationSettings(num_clips=4, seed=3))
