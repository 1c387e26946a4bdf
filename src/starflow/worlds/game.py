"""Scenarios of ViZDoom, frame by frame, with the free art of Freedoom. The package is an extra: `worlds`.

An episode is determined by its scenario, its seed and its actions, so what a player would have seen after
other actions can be rendered (`starflow.worlds.episodes.replay`).
"""

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from starflow.errors import StarflowError, UsageError, nearest_name
from starflow.flow.actions import ActionSpace
from starflow.media.frames import Frame

SIZE = 64  # height and width in pixels
TICS_PER_FRAME = 4  # the game has 35 tics per second
FPS = 35 / TICS_PER_FRAME


class Action(NamedTuple):
    """What the player does in a frame. A button that a scenario lacks does nothing."""

    move: int = 0  # 1 to the left, 2 to the right
    turn: int = 0  # 1 to the left, 2 to the right
    attack: int = 0  # 1 shoots


ACTION_SPACE = ActionSpace(
    sizes=(3, 3, 2),
    names=(("", "move left", "move right"), ("", "turn left", "turn right"), ("", "shoot")),
    keys=(("", "KeyA", "KeyD"), ("", "ArrowLeft", "ArrowRight"), ("", "Space")),
)
BUTTONS = {  # of ViZDoom, and the actions that press them
    "MOVE_LEFT": lambda action: action.move == 1,
    "MOVE_RIGHT": lambda action: action.move == 2,
    "TURN_LEFT": lambda action: action.turn == 1,
    "TURN_RIGHT": lambda action: action.turn == 2,
    "ATTACK": lambda action: action.attack == 1,
}
SCENARIOS = {  # and the place in words, with which captions begin
    "basic": "a hall with one monster",
    "take_cover": "a hall from whose far wall monsters throw fireballs",
    "defend_the_center": "a round arena where monsters come closer from all sides",
}


@dataclass(frozen=True)
class View:
    """What is known after a frame.

    Attributes:
        picture: uint8 `(64, 64, 3)`.
        monsters: the share of each pixel that monsters cover, uint8 `(64, 64)`, 255 for all of it.
        pose: the player's place `x` and `y` and angle in degrees.
        health, kills: of the player.
    """

    picture: Frame
    monsters: NDArray[np.uint8]
    pose: tuple[float, float, float]
    health: float
    kills: float


class Game:
    """A scenario that is played frame by frame, without a window or sound. Use it as a context."""

    def __init__(self, scenario: str) -> None:
        """Raises UsageError if there is no such scenario, StarflowError if ViZDoom is missing or does not start."""
        if scenario not in SCENARIOS:
            close = nearest_name(scenario, SCENARIOS)
            hint = f"did you mean {close}?" if close else f"choose {', '.join(SCENARIOS)}"
            raise UsageError(f"there is no scenario {scenario!r}: {hint}")
        self.scenario = scenario
        self._folder = TemporaryDirectory()
        with chdir(self._folder.name):  # it writes its settings to the current folder
            self._game = _start(scenario)
        self.buttons = [button.name for button in self._game.get_available_buttons()]

    def __enter__(self) -> "Game":
        return self

    def __exit__(self, *exception: object) -> None:
        self._game.close()
        self._folder.cleanup()

    def reset(self, seed: int) -> View:
        """Start the episode with a seed; the view is that of its first frame."""
        self._game.set_seed(seed)
        self._game.new_episode()
        view = self._view()
        assert view is not None
        return view

    def step(self, action: Action) -> View | None:
        """Play a frame; None if the episode has ended."""
        pressed = [bool(BUTTONS[button](action)) for button in self.buttons]
        self._game.make_action(pressed, TICS_PER_FRAME)
        return self._view()

    def _view(self) -> View | None:
        state = self._game.get_state()
        if state is None:
            return None
        values = [label.value for label in state.labels if label.object_category == "Monster"]
        monsters = np.isin(state.labels_buffer, values).astype(np.uint8) * 255
        x, y, angle, health, kills = state.game_variables.tolist()
        return View(_small(state.screen_buffer), _small(monsters), (x, y, angle), health, kills)


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image of 320×240 pixels, averaged to 64×64."""
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BOX))


def _start(scenario: str) -> Any:
    try:
        import vizdoom
    except ImportError:
        raise StarflowError(
            "the game needs ViZDoom: install it with pip install -c constraints.txt -e '.[worlds]'"
        ) from None
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path, f"{scenario}.cfg")))
    game.set_doom_game_path(str(Path(vizdoom.__file__).parent / "freedoom2.wad"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for switch_off in (game.set_window_visible, game.set_sound_enabled, game.set_render_hud, game.set_render_messages):
        switch_off(False)
    game.set_labels_buffer_enabled(True)
    variables = ("POSITION_X", "POSITION_Y", "ANGLE", "HEALTH", "KILLCOUNT")
    game.set_available_game_variables([getattr(vizdoom.GameVariable, name) for name in variables])
    try:
        game.init()
    except Exception as error:
        raise StarflowError(f"ViZDoom does not start: {error}") from error
    return game
