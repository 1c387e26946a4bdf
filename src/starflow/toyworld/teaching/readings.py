"""Texts with what each of their words is about: what a text encoder is taught to read before a flow is there."""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from starflow.toyworld.world.captions import caption, clause_ends, image_caption, parse
from starflow.toyworld.world.edits import TEMPLATES, parse_edit, sample_edit
from starflow.toyworld.world.scene import Scene, Split, sample_object
from starflow.toyworld.world.vocabulary import BACKGROUNDS, COLORS, MOTIONS, SHAPES, SIZES

TextKind = Literal["clip", "image", "edit"]

KIND_PROBABILITY: dict[TextKind, float] = {"clip": 0.6, "image": 0.1, "edit": 0.3}
PAIR_PROBABILITY = 0.6
# What a text may say of an object, and which of its objects that is, of the background, or of an edit of them.
ASPECTS: dict[str, tuple[str, ...]] = {
    "order": ("first", "second"),
    "size": SIZES,
    "color": COLORS,
    "shape": SHAPES,
    "motion": MOTIONS,
    "background": BACKGROUNDS,
    "kind": tuple(TEMPLATES),
    "value": (*COLORS, *SHAPES, "lighter", "darker"),
}


@dataclass(frozen=True)
class Part:
    """A part of a text up to the character `end`, and what the text says of what the part is about, by aspect."""

    end: int
    says: dict[str, str]


@dataclass(frozen=True)
class Reading:
    """A text, and its parts in order: a caption has one for each object, an instruction is one."""

    kind: TextKind
    text: str
    parts: tuple[Part, ...]


def sample_reading(rng: np.random.Generator, split: Split) -> Reading:
    """A caption of a clip or of an image, or an instruction, with its reading."""
    scene = _sample_scene_in_words(rng, split, 1 + int(rng.random() < PAIR_PROBABILITY))
    kind = list(KIND_PROBABILITY)[rng.choice(len(KIND_PROBABILITY), p=list(KIND_PROBABILITY.values()))]
    if kind == "edit":
        return read_instruction(sample_edit(scene, rng)[0])
    return read_caption((caption if kind == "clip" else image_caption)(scene, rng, split), kind)


def _sample_scene_in_words(rng: np.random.Generator, split: Split, num_objects: int) -> Scene:
    """A scene to be described and not to be seen: its objects differ in color or shape, but may be anywhere."""
    while True:
        objects = tuple(sample_object(rng, split) for _ in range(num_objects))
        if len({(item.color, item.shape) for item in objects}) == num_objects:
            return Scene(objects, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])


def read_caption(text: str, kind: TextKind) -> Reading:
    """The reading of a caption; what follows the last object belongs to it. Raises StarflowError as `parse` does."""
    description = parse(text)
    ends = [*clause_ends(text)[:-1], len(text)]
    background = {"background": description.background}
    parts = (
        Part(end, _said({"order": order, **asdict(item), **background}))
        for order, item, end in zip(ASPECTS["order"], description.objects, ends, strict=False)
    )
    return Reading(kind, text, tuple(parts))


def read_instruction(text: str) -> Reading:
    """The reading of an instruction. Raises StarflowError as `parse_edit` does."""
    edit = parse_edit(text)
    target = asdict(edit.target) if edit.target else {}
    return Reading("edit", text, (Part(len(text), _said({**target, "kind": edit.kind, "value": edit.value})),))


def _said(aspects: dict[str, str | None]) -> dict[str, str]:
    return {aspect: name for aspect, name in aspects.items() if name}
