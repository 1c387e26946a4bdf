"""A model as an environment of Gymnasium, `starflow/World-v0`.

import gymnasium

world = gymnasium.make("starflow.environment:starflow/World-v0", model="toyworld", prompt="a red circle orbits")
picture, info = world.reset(seed=0)
picture, reward, terminated, truncated, info = world.step(world.action_space.sample())
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from starflow.flow.actions import ActionSpace
from starflow.pipeline.pipeline import StarFlowPipeline

SEEDS = 2**63 - 1


class World(gymnasium.Env[NDArray[np.uint8], Any]):
    """The world that a model has learnt.

    An observation is the last picture of a step, uint8 `(height, width, 3)`; `info["frames"]` has all pictures of the
    step, `(f, height, width, 3)`. The model knows no rewards and no end: the reward is 0 and an episode goes on until
    `max_episode_steps` of `gymnasium.make`. A model without actions has one, which continues the video.

    The seed of `reset` determines the episode, together with the actions.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's convention)

    def __init__(
        self,
        model: str | StarFlowPipeline = "toyworld",
        prompt: str = "",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            model: a bundled model, a folder, a hub id or a loaded pipeline.
            prompt: a caption.
            render_mode: None or `rgb_array`, the observation.
            options: of `StarFlowPipeline.session`, such as `image`.

        Raises:
            TypeError, UsageError, StarflowError: as in `StarFlowPipeline.from_pretrained` and `session`.
        """
        pipeline = StarFlowPipeline.from_pretrained(model) if isinstance(model, str) else model
        self.session = pipeline.session(prompt, **options)
        self.render_mode = render_mode
        self._takes_actions = pipeline.flow.action_space is not None
        self.action_space = action_space(pipeline.flow.action_space)
        self.observation_space = spaces.Box(0, 255, self.session.frames.shape[1:], np.uint8)
        self.metadata = self.metadata | {"render_fps": self.session.fps / self.session.frames_per_step}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode: see `gymnasium.Env.reset`. There are no options."""
        super().reset(seed=seed)
        generator = torch.Generator().manual_seed(int(self.np_random.integers(SEEDS)))
        frames = self.session.reset(generator)
        return frames[-1], {"frames": frames}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Make the next pictures: see `gymnasium.Env.step`. Raises UsageError for an action that does not exist."""
        frames = self.session.step(action if self._takes_actions else None)
        return frames[-1], 0.0, False, False, {"frames": frames}

    def render(self) -> NDArray[np.uint8] | None:
        """The last observation, if `render_mode` is `rgb_array`."""
        return self.session.frames[-1] if self.render_mode == "rgb_array" else None


def action_space(space: ActionSpace | None) -> spaces.Space[Any]:
    """The space of Gymnasium for the actions of a model."""
    if space is None:
        return spaces.Discrete(1)
    if not space.is_discrete:
        return spaces.Box(np.array(space.low, np.float32), np.array(space.high, np.float32), dtype=np.float32)
    return spaces.Discrete(space.sizes[0]) if len(space.sizes) == 1 else spaces.MultiDiscrete(list(space.sizes))


gymnasium.register("starflow/World-v0", World)
