"""The words and phrases of toyworld's captions and instructions, and what they mean.

`HELD_OUT_PHRASES` and the two held-out openings occur only in captions of the test split. Each is a new combination of
words from the training split, so that a text encoder trained on toyworld alone can understand it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# The first of each list is the canonical phrase.
COLOR_WORDS = {
    "red": ("red", "scarlet"),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "white": ("white",),
}
SHAPE_WORDS = {"circle": ("circle", "disc", "ball"), "square": ("square", "box"), "triangle": ("triangle", "wedge")}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
DETERMINERS = ("a", "the", "one")
PHRASES = {
    "left": (
        "moves left",
        "moves to the left",
        "moves leftwards",
        "glides left",
        "glides to the left",
        "slides left",
        "slides leftwards",
        "travels left",
        "travels to the left",
        "travels leftwards",
        "drifts left",
        "drifts leftwards",
        "goes left",
        "goes to the left",
        "goes leftwards",
    ),
    "right": (
        "moves right",
        "moves to the right",
        "moves rightwards",
        "glides right",
        "glides to the right",
        "slides right",
        "slides rightwards",
        "travels right",
        "travels to the right",
        "travels rightwards",
        "drifts right",
        "drifts rightwards",
        "goes right",
        "goes to the right",
        "goes rightwards",
    ),
    "up": (
        "moves up",
        "moves upwards",
        "rises",
        "rises up",
        "glides upwards",
        "slides up",
        "slides upwards",
        "travels up",
        "drifts up",
        "drifts upwards",
        "goes up",
        "goes upwards",
    ),
    "down": (
        "moves down",
        "moves downwards",
        "sinks",
        "sinks down",
        "glides downwards",
        "slides down",
        "slides downwards",
        "travels down",
        "drifts down",
        "drifts downwards",
        "goes down",
        "goes downwards",
    ),
    "bounce": (
        "bounces",
        "bounces up and down",
        "bounces on the floor",
        "bounces off the floor",
        "jumps",
        "jumps up and down",
        "jumps off the floor",
        "hops",
        "hops on the floor",
        "hops off the floor",
        "goes up and down",
    ),
    "orbit": (
        "orbits",
        "circles around",
        "moves in a circle",
        "moves around in a circle",
        "travels in a circle",
        "goes around in a circle",
        "goes around",
        "glides in a circle",
        "glides around in a circle",
        "drifts around in a circle",
        "slides in a circle",
    ),
    "grow": (
        "grows",
        "grows larger",
        "grows bigger",
        "grows and gets bigger",
        "grows and becomes larger",
        "gets bigger",
        "gets bigger and bigger",
        "becomes larger",
        "becomes larger and larger",
        "expands",
        "expands and gets bigger",
        "expands and becomes larger",
    ),
    "shrink": (
        "shrinks",
        "shrinks and gets smaller",
        "gets smaller",
        "gets smaller and smaller",
        "becomes smaller",
        "becomes smaller and smaller",
        "contracts",
        "contracts and gets smaller",
        "contracts and becomes smaller",
    ),
    "still": (
        "stays still",
        "stays where it is",
        "does not move",
        "stands still",
        "stands in place",
        "remains in place",
        "remains where it is",
        "rests",
        "rests in place",
    ),
}
HELD_OUT_PHRASES = {
    "left": ("glides leftwards", "slides to the left", "drifts to the left"),
    "right": ("glides rightwards", "slides to the right", "drifts to the right"),
    "up": ("travels upwards", "glides up"),
    "down": ("travels downwards", "glides down"),
    "bounce": ("hops up and down", "jumps on the floor"),
    "orbit": ("goes in a circle", "travels around in a circle"),
    "grow": ("gets larger", "becomes bigger"),
    "shrink": ("shrinks and becomes smaller",),
    "still": ("stays in place", "remains still"),
}
NOUN_CONNECTORS = (" and ", ", and ")  # between noun phrases, with or without "that moves right"
CLAUSE_CONNECTORS = (" and ", " while ", ", and ", ", while ")
BACKGROUND_PREPOSITIONS = ("on a", "over a", "against a")

# The empty opening precedes "a red circle moves right", the others precede "a red circle that moves right".
CLIP_OPENINGS = ("", "a video of ", "a video that shows ", "a clip of ", "a clip that shows ", "here is ")
HELD_OUT_CLIP_OPENING = "there is "
IMAGE_OPENINGS = ("", "a picture of ", "there is ", "here is ")
HELD_OUT_IMAGE_OPENING = "a picture that shows "

CANONICAL_PROBABILITY = 0.3  # that `pick` takes the canonical phrase instead of choosing evenly


@dataclass(frozen=True)
class ObjectDescription:
    """One object of a text. Attributes that the text does not mention are None, such as the motion in an image."""

    shape: str
    color: str | None = None
    size: str | None = None
    motion: str | None = None


@dataclass(frozen=True)
class Description:
    """What a caption says: its objects in the order of the text, and the background, or None if not mentioned."""

    objects: tuple[ObjectDescription, ...]
    background: str | None = None


def pick(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[0] if rng.random() < CANONICAL_PROBABILITY else pick_evenly(rng, phrases)


def pick_evenly(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def any_of(phrases: Sequence[str]) -> str:
    # Longest first: "bounces up and down" must not be read as "bounces" and a second clause.
    return "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))


def meanings(table: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {phrase: name for name, phrases in table.items() for phrase in phrases}


_COLOR_OF, _SHAPE_OF, _SIZE_OF = meanings(COLOR_WORDS), meanings(SHAPE_WORDS), meanings(SIZE_WORDS)
MOTION_OF = meanings(PHRASES) | meanings(HELD_OUT_PHRASES)
NOUN_PHRASE = (
    rf"(?:(?:{any_of(DETERMINERS)}) )?(?:(?P<size>{any_of(list(_SIZE_OF))}) )?"
    rf"(?:(?P<color>{any_of(list(_COLOR_OF))}) )?(?P<shape>{any_of(list(_SHAPE_OF))})"
)


def normalize(text: str) -> str:
    """Lower case, single spaces, no full stop at the end, American spelling of gray."""
    return " ".join(text.lower().split()).removesuffix(".").replace("grey", "gray")


def object_description(match: re.Match[str]) -> ObjectDescription:
    """The object of a match of `NOUN_PHRASE`, with its motion if the pattern has a group for it."""
    groups = match.groupdict(default="")
    return ObjectDescription(
        shape=_SHAPE_OF[groups["shape"]],
        color=_COLOR_OF.get(groups["color"]),
        size=_SIZE_OF.get(groups["size"]),
        motion=MOTION_OF.get(groups.get("motion", "")),
    )
