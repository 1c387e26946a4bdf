"""Players for recording. A mixture of them shows what each action does, and also what a game looks like."""

from collections.abc import Callable
from typing import Any

import numpy as np

from starflow.worlds.game import SIZE, Action, View

# A policy is made for an episode, with its random numbers and the buttons of the game. It maps views to actions.
Policy = Callable[[View], Action]

HOLD = 8  # frames for which a persistent player holds buttons, at most
CENTRE = (SIZE - 1) / 2
AIM = 3  # pixels from the middle within which a monster is hit


def random_policy(rng: np.random.Generator, buttons: list[str]) -> Policy:
    """Other buttons in each frame."""
    return lambda view: _random_action(rng, buttons)


def persistent_policy(rng: np.random.Generator, buttons: list[str]) -> Policy:
    """The same buttons for 1 to `HOLD` frames."""
    held: list[Any] = [0, Action()]

    def policy(view: View) -> Action:
        if held[0] == 0:
            held[:] = [int(rng.integers(1, HOLD + 1)), _random_action(rng, buttons)]
        held[0] -= 1
        return held[1]

    return policy


def aiming_policy(rng: np.random.Generator, buttons: list[str]) -> Policy:
    """Turns or moves to the largest monster and shoots at it; without a monster or a gun, like `persistent_policy`."""
    searching = persistent_policy(rng, buttons)

    def policy(view: View) -> Action:
        columns = view.monsters.sum(axis=0, dtype=float)
        if not columns.any() or "ATTACK" not in buttons:
            return searching(view)
        offset = columns.argmax() - CENTRE
        if abs(offset) <= AIM:
            return Action(attack=1)
        direction = 1 if offset < 0 else 2
        return Action(turn=direction) if "TURN_LEFT" in buttons else Action(move=direction)

    return policy


POLICIES = {"random": random_policy, "persistent": persistent_policy, "aiming": aiming_policy}


def _random_action(rng: np.random.Generator, buttons: list[str]) -> Action:
    """One of the buttons, or none, each equally likely in each part of the action."""
    return Action(
        int(rng.integers(3)) if "MOVE_LEFT" in buttons else 0,
        int(rng.integers(3)) if "TURN_LEFT" in buttons else 0,
        int(rng.integers(2)) if "ATTACK" in buttons else 0,
    )
