"""Texts with labels of what each word is about, for training a text encoder before the flow."""

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
# What a text may say about an object, its order in the text, the background, or an edit.
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
    """A part of a text, up to the character `end`, and what the text says about its object or edit, by aspect."""

    end: int
    says: dict[str, str]


@dataclass(frozen=True)
class Reading:
    """A text and its parts in order: a caption has one for each object, an instruction has one."""

    kind: TextKind
    text: str
    parts: tuple[Part, ...]


def sample_reading(rng: np.random.Generator, split: Split) -> Reading:
    """The reading of a random caption of a clip, caption of an image, or instruction."""
    scene = _sample_described_scene(rng, split, 1 + int(rng.random() < PAIR_PROBABILITY))
    kind = list(KIND_PROBABILITY)[rng.choice(len(KIND_PROBABILITY), p=list(KIND_PROBABILITY.values()))]
    if kind == "edit":
        return read_instruction(sample_edit(scene, rng)[0])
    return read_caption((caption if kind == "clip" else image_caption)(scene, rng, split), kind)


def _sample_described_scene(rng: np.random.Generator, split: Split, num_objects: int) -> Scene:
    """A scene for a text only: its objects differ in color or shape, but may be anywhere."""
    while True:
        objects = tuple(sample_object(rng, split) for _ in range(num_objects))
        if len({(item.color, item.shape) for item in objects}) == num_objects:
            return Scene(objects, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])


def read_caption(text: str, kind: TextKind) -> Reading:
    """The reading of a caption. The last part ends with the text. Raises StarflowError as in `parse`."""
    description = parse(text)
    ends = [*clause_ends(text)[:-1], len(text)]
    background = {"background": description.background}
    parts = (
        Part(end, _said({"order": order, **asdict(item), **background}))
        for order, item, end in zip(ASPECTS["order"], description.objects, ends, strict=False)
    )
    return Reading(kind, text, tuple(parts))


def read_instruction(text: str) -> Reading:
    """The reading of an instruction. Raises StarflowError as in `parse_edit`."""
    edit = parse_edit(text)
    target = asdict(edit.target) if edit.target else {}
    return Reading("edit", text, (Part(len(text), _said({**target, "kind": edit.kind, "value": edit.value})),))


def _said(aspects: dict[str, str | None]) -> dict[str, str]:
    return {aspect: name for aspect, name in aspects.items() if name}
