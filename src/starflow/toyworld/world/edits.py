"""Edits of toyworld scenes for video-to-video: an instruction, and the edited scene, whose motions are unchanged."""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from starflow.errors import StarflowError
from starflow.toyworld.world.grammar import (
    COLOR_WORDS,
    NOUN_PHRASE,
    SHAPE_WORDS,
    ObjectDescription,
    any_of,
    meanings,
    normalize,
    object_description,
    pick,
)
from starflow.toyworld.world.scene import Scene
from starflow.toyworld.world.vocabulary import BACKGROUNDS, COLORS, HELD_OUT, SHAPES

EditKind = Literal["recolor", "reshape", "remove", "background"]

# The first template of each list is the canonical one.
TEMPLATES: dict[EditKind, tuple[str, ...]] = {
    "recolor": ("make {target} {value}", "turn {target} {value}", "change the color of {target} to {value}"),
    "reshape": ("turn {target} into a {value}", "change {target} into a {value}", "replace {target} with a {value}"),
    "remove": ("remove {target}", "delete {target}", "take {target} away"),
    "background": ("make the background {value}", "use a {value} background"),
}
SHADE_STEPS = {"lighter": 1, "darker": -1}  # steps along BACKGROUNDS


@dataclass(frozen=True)
class Edit:
    """The meaning of an instruction.

    Attributes:
        kind: the kind of edit.
        target: the object to edit; None for "background".
        value: the new color or shape, "lighter" or "darker"; None for "remove".
    """

    kind: EditKind
    target: ObjectDescription | None = None
    value: str | None = None


def sample_edit(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """Draw an instruction that is unambiguous in `scene`, and return it with the edited scene.

    The kinds of edit that the scene allows are equally likely. An object is removed only from a scene of two. A
    recolored or reshaped object never becomes a held-out combination, nor equal in color and shape to the other object.
    """
    choices: dict[EditKind, list[tuple[int, str, Scene]]] = {
        "recolor": [(i, color, _with(scene, i, color=color)) for i in range(len(scene.objects)) for color in COLORS],
        "reshape": [(i, shape, _with(scene, i, shape=shape)) for i in range(len(scene.objects)) for shape in SHAPES],
        "remove": [(i, "", _without(scene, i)) for i in range(len(scene.objects))],
        "background": [(0, shade, _shaded(scene, step)) for shade, step in SHADE_STEPS.items()],
    }
    allowed = {kind: [c for c in options if _is_allowed(scene, c[2])] for kind, options in choices.items()}
    kinds = [kind for kind, options in allowed.items() if options]
    kind = kinds[int(rng.integers(len(kinds)))]
    index, value, target = allowed[kind][int(rng.integers(len(allowed[kind])))]
    words = {"recolor": COLOR_WORDS, "reshape": SHAPE_WORDS}.get(kind, {}).get(value, (value,))
    template = pick(rng, TEMPLATES[kind])
    return template.format(target=_reference(scene, index, rng), value=pick(rng, words)), target


def parse_edit(text: str) -> Edit:
    """Read an instruction.

    Raises:
        StarflowError: the text is outside the grammar of instructions.
    """
    for kind, pattern in _PATTERNS:
        if match := pattern.fullmatch(normalize(text)):
            value = match.groupdict().get("value")
            target = None if kind == "background" else object_description(match)
            return Edit(kind, target, _VALUES[kind].get(value, value) if value else None)
    raise StarflowError(
        f"not a toyworld edit: {text!r}. Write for example 'make the circle blue', 'turn the square into a triangle', "
        "'remove the red circle' or 'make the background lighter'"
    )


def _with(scene: Scene, index: int, **changes: Any) -> Scene:
    objects = list(scene.objects)
    objects[index] = replace(objects[index], **changes)
    return replace(scene, objects=tuple(objects))


def _without(scene: Scene, index: int) -> Scene:
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])


def _shaded(scene: Scene, step: int) -> Scene:
    shade = BACKGROUNDS.index(scene.background) + step
    return replace(scene, background=BACKGROUNDS[min(max(shade, 0), len(BACKGROUNDS) - 1)])


def _is_allowed(source: Scene, target: Scene) -> bool:
    names = {(item.color, item.shape) for item in target.objects}
    changed = set(target.objects) - set(source.objects)
    return (
        target != source
        and 0 < len(target.objects) == len(names)
        and not any((item.color, item.shape, item.motion) in HELD_OUT for item in changed)
    )


def _reference(scene: Scene, index: int, rng: np.random.Generator) -> str:
    item = scene.objects[index]
    is_only_one = sum(other.shape == item.shape for other in scene.objects) == 1
    color = "" if is_only_one and rng.random() < 0.5 else pick(rng, COLOR_WORDS[item.color]) + " "
    return f"the {color}{pick(rng, SHAPE_WORDS[item.shape])}"


_VALUES: dict[EditKind, dict[str, str]] = {
    "recolor": meanings(COLOR_WORDS),
    "reshape": meanings(SHAPE_WORDS),
    "remove": {},
    "background": {shade: shade for shade in SHADE_STEPS},
}
_PATTERNS = [
    (kind, re.compile(template.format(target=NOUN_PHRASE, value=f"(?P<value>{any_of(list(_VALUES[kind]))})")))
    for kind, templates in TEMPLATES.items()
    for template in templates
]
