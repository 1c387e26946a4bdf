"""The keys, buttons and sticks of action spaces."""

import json

from starflow.flow.actions import ActionSpace
from starflow.play.controls import controls_of, legend, neutral_action

NAMED = ActionSpace(
    sizes=(3, 2),
    names=(("left", "", "right"), ("", "shoot")),
    keys=(("KeyJ", "", "KeyL"), ("", "KeyS")),
)


def actions_of(space: ActionSpace) -> list[list[float]]:
    """The action of each control alone."""
    actions = []
    for control in controls_of(space):
        action = neutral_action(space)
        action[control.component] = control.value
        actions.append(action)
    return actions


def test_named_choices_have_their_names_and_keys():
    assert neutral_action(NAMED) == [1, 0]
    assert [(each.name, each.key) for each in controls_of(NAMED)] == [
        ("left", "KeyJ"),
        ("right", "KeyL"),
        ("shoot", "KeyS"),
    ]
    assert actions_of(NAMED) == [[0, 0], [2, 0], [1, 1]]


def test_choices_without_a_name_are_not_offered():
    space = ActionSpace(sizes=(3, 3), names=(("", "left", "right"), ("", "", "")))
    assert neutral_action(space) == [0, 0]
    assert actions_of(space) == [[1, 0], [2, 0]]


def test_pairs_are_directions_and_single_choices_are_buttons():
    left, right, shoot = controls_of(NAMED)
    assert [(each.axis, each.direction, each.button) for each in (left, right)] == [(0, -1, None), (0, 1, None)]
    assert (shoot.axis, shoot.button) == (None, 0)


def test_spaces_without_names_have_keys_too():
    space = ActionSpace(sizes=(3, 3, 2, 2))
    keys = [each.key for each in controls_of(space)]
    assert keys == ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Space", "KeyX"]
    assert all(each.name for each in controls_of(space))


def test_a_component_with_many_choices_has_buttons_on_the_page_only():
    controls = controls_of(ActionSpace(sizes=(6,)))
    assert [each.value for each in controls] == [1, 2, 3, 4, 5]
    assert all(each.key == "" and each.axis is None and each.button is None for each in controls)


def test_values_are_pressed_to_the_ends_of_their_range():
    space = ActionSpace(low=(-1, 2), high=(1, 10), names=(("left", "right"), ("slow", "fast")))
    assert neutral_action(space) == [0, 2]
    assert actions_of(space) == [[-1, 2], [1, 2], [0, 2], [0, 10]]
    assert [each.name for each in controls_of(space)] == ["left", "right", "slow", "fast"]


def test_every_control_makes_an_action_of_the_space_and_is_json():
    for space in (NAMED, ActionSpace(sizes=(18,)), ActionSpace(sizes=(2,) * 9), ActionSpace(low=(3,), high=(4,))):
        for action in [neutral_action(space), *actions_of(space)]:
            space.check([action], 1)
        assert json.loads(json.dumps(legend(space)))["neutral"] == neutral_action(space)


def test_a_model_without_actions_has_no_controls():
    assert legend(None) == {"neutral": None, "controls": []}
