"""What a player presses, and which action that is: keys, buttons of a touch screen, and a gamepad.

A component of an action with one choice besides doing nothing is a button, and one with two such choices is a pair of
directions. The model's action space may name the choices and their keys. Other keys are those of the tables below.
"""

from dataclasses import asdict, dataclass
from typing import Any

from starflow.flow.actions import ActionSpace

KEYS_OF_PAIRS = (("ArrowLeft", "ArrowRight"), ("ArrowUp", "ArrowDown"), ("KeyA", "KeyD"), ("KeyW", "KeyS"))
KEYS_OF_BUTTONS = ("Space", "KeyX", "KeyC", "KeyV")
AXES = (0, 2, 1, 3)  # of a gamepad, for pairs: both sticks sideways, then both forwards
NUM_GAMEPAD_BUTTONS = 4


@dataclass(frozen=True)
class Control:
    """A choice that is made while something is pressed.

    Attributes:
        name: for people.
        component, value: of the action.
        key: `KeyboardEvent.code`; empty for none.
        axis, direction: of a gamepad's stick, -1 or 1; None for none.
        button: of a gamepad; None for none.
    """

    name: str
    component: int
    value: float
    key: str = ""
    axis: int | None = None
    direction: int = 0
    button: int | None = None


def neutral_action(space: ActionSpace) -> list[float]:
    """The action of a player who does nothing: unnamed or first choices, and the values nearest to 0."""
    if not space.is_discrete:
        return [min(max(0.0, low), high) for low, high in space.ranges]
    return [_neutral_choice(space, component) for component in range(space.num_components)]


def controls_of(space: ActionSpace) -> list[Control]:
    """The controls of all choices but those of doing nothing, by component."""
    controls: list[Control] = []
    num_pairs = num_buttons = 0
    for component, values in enumerate(map(_values, [space] * space.num_components, range(space.num_components))):
        keys, axis, button = [""] * len(values), None, None
        if len(values) == 2:
            keys, axis = [*_entry(KEYS_OF_PAIRS, num_pairs, ("", ""))], _entry(AXES, num_pairs, None)
            num_pairs += 1
        elif len(values) == 1:
            keys = [_entry(KEYS_OF_BUTTONS, num_buttons, "")]
            button = num_buttons if num_buttons < NUM_GAMEPAD_BUTTONS else None
            num_buttons += 1
        for index, (choice, value) in enumerate(values):
            name = space.names[component][choice] if space.names else f"action {component}: {value:g}"
            key = space.keys[component][choice] if space.keys else keys[index]
            direction = 0 if axis is None else 2 * index - 1
            controls.append(Control(name, component, value, key, axis, direction, button))
    return controls


def legend(space: ActionSpace | None) -> dict[str, Any]:
    """What a page needs to know, as JSON: `neutral`, the action of a player who does nothing, and the `controls`."""
    if space is None:
        return {"neutral": None, "controls": []}
    return {"neutral": neutral_action(space), "controls": [asdict(each) for each in controls_of(space)]}


def _neutral_choice(space: ActionSpace, component: int) -> int:
    names = space.names[component] if space.names else ()
    return names.index("") if "" in names else 0


def _values(space: ActionSpace, component: int) -> list[tuple[int, float]]:
    """The index in `names` and the value of each choice that is offered: not that of doing nothing, and with a name."""
    if not space.is_discrete:
        return list(enumerate(space.ranges[component]))
    neutral = _neutral_choice(space, component)
    names = space.names[component] if space.names else ()
    return [
        (choice, choice)
        for choice in range(space.sizes[component])
        if choice != neutral and (not names or names[choice])
    ]


def _entry(table: tuple[Any, ...], index: int, default: Any) -> Any:
    return table[index] if index < len(table) else default
