"""`starflow/World-v0` under Gymnasium's checker, and with an agent that knows nothing of starflow."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FrameStackObservation, RecordEpisodeStatistics

from starflow.environment import World
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import playable_pipeline, tiny_pipeline

NAME = "starflow.environment:starflow/World-v0"
SPACES = {
    "discrete": ActionSpace(sizes=(3,)),
    "multi-discrete": ActionSpace(sizes=(3, 2)),
    "continuous": ActionSpace(low=(-1, -1), high=(1, 1)),
    "none": None,
}


@pytest.fixture(scope="module", params=SPACES)
def pipeline(request: pytest.FixtureRequest) -> StarFlowPipeline:
    space = SPACES[request.param]
    return tiny_pipeline() if space is None else playable_pipeline(space)


@pytest.mark.filterwarnings("error")
def test_the_checker_of_gymnasium_has_nothing_to_say(pipeline: StarFlowPipeline):
    world = gymnasium.make(NAME, model=pipeline, prompt="a red circle moves right", render_mode="rgb_array")
    check_env(world.unwrapped)


def random_agent(name: str, **options) -> tuple[float, int, np.ndarray]:
    """What any agent written for Gymnasium does: the return, the length and the last observation of an episode."""
    env = FrameStackObservation(RecordEpisodeStatistics(gymnasium.make(name, max_episode_steps=5, **options)), 3)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=1)
    is_over = False
    while not is_over:
        observation, _, terminated, truncated, info = env.step(env.action_space.sample())
        is_over = terminated or truncated
    env.close()
    return info["episode"]["r"], info["episode"]["l"], observation


def test_an_agent_written_for_gymnasium_runs_unchanged(pipeline: StarFlowPipeline):
    reward, length, observation = random_agent(NAME, model=pipeline)
    assert (reward, length, observation.shape) == (0, 5, (3, 32, 32, 3))
    assert np.array_equal(random_agent(NAME, model=pipeline)[2], observation)


def test_episodes_without_a_seed_differ_and_a_seed_determines_all_of_them():
    world = World(playable_pipeline(SPACES["discrete"]))
    first = [world.reset(seed=1)[0], world.reset()[0]]
    assert not np.array_equal(*first)
    assert np.array_equal([world.reset(seed=1)[0], world.reset()[0]], first)


def test_a_step_of_several_frames_has_all_of_them_in_info():
    world = World(tiny_pipeline())
    world.reset(seed=0)
    observation, _, _, _, info = world.step(0)
    assert info["frames"].shape == (4, 32, 32, 3)
    assert np.array_equal(info["frames"][-1], observation)
    assert world.metadata["render_fps"] == 2


def test_worlds_made_from_a_name_start_from_a_picture(tmp_path):
    playable_pipeline(SPACES["discrete"]).save_pretrained(tmp_path / "model")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    one, other = (
        gymnasium.make(NAME, model=str(tmp_path / "model"), **options) for options in ({}, {"image": picture})
    )
    assert not np.array_equal(one.reset(seed=0)[0], other.reset(seed=0)[0])


def test_a_bad_action_is_one_clear_error():
    world = World(playable_pipeline(SPACES["discrete"]))
    world.reset(seed=0)
    with pytest.raises(UsageError, match="from 0 to 2, not 3"):
        world.step(3)
