"""Captions of toyworld scenes: a small grammar with many paraphrases, and the parser that reads them back.

The phrases of ``HELD_OUT_PHRASES`` and the two held-out templates appear in captions of the test split only. Each is a
new combination of words that training does show, so that a text encoder trained on toyworld alone can understand it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from starflow.errors import StarflowError
from starflow.toyworld.scene import Scene, SceneObject, Split
from starflow.toyworld.vocabulary import BACKGROUNDS, COLORS, SHAPES

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
        "glides to the left",
        "slides left",
        "travels to the left",
        "drifts left",
        "travels leftwards",
        "moves leftwards",
    ),
    "right": (
        "moves right",
        "moves to the right",
        "glides to the right",
        "slides right",
        "travels to the right",
        "drifts right",
        "travels rightwards",
        "moves rightwards",
    ),
    "up": ("moves up", "rises", "moves upwards", "glides upwards", "slides up", "travels up"),
    "down": ("moves down", "sinks", "moves downwards", "glides downwards", "slides down", "travels down"),
    "bounce": ("bounces", "bounces up and down", "bounces on the floor", "jumps up and down", "hops on the floor"),
    "orbit": ("orbits", "moves in a circle", "circles around", "goes around in a circle", "travels in a circle"),
    "grow": ("grows", "gets bigger", "expands", "becomes larger", "grows larger"),
    "shrink": ("shrinks", "gets smaller", "contracts", "becomes smaller", "shrinks and gets smaller"),
    "still": ("stays still", "does not move", "stands still", "remains in place", "rests"),
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

# What may stand before "a red circle moves right" (the first), or before "a red circle that moves right" (the others).
CLIP_OPENINGS = ("", "a video of ", "a video that shows ")
HELD_OUT_CLIP_OPENING = "there is "
IMAGE_OPENINGS = ("", "a picture of ", "there is ")
HELD_OUT_IMAGE_OPENING = "a picture that shows "

CANONICAL_PROBABILITY = 0.5  # of the canonical word among its synonyms, where the choice is between several
SIZE_PROBABILITY = 0.5
BACKGROUND_PROBABILITY = 0.3
HELD_OUT_PROBABILITY = 0.5  # of a held-out paraphrase, at each place that has one, in the test split


@dataclass(frozen=True)
class ObjectDescription:
    """What a text says about one object; None is what it leaves out. An image's caption leaves out the motion."""

    shape: str
    color: str | None = None
    size: str | None = None
    motion: str | None = None


@dataclass(frozen=True)
class Description:
    """What a caption says: its objects in the order of the text, and the background or None."""

    objects: tuple[ObjectDescription, ...]
    background: str | None = None


def describe_scene(scene: Scene) -> Description:
    """Everything that a caption could say about a scene, its objects farthest first."""
    objects = tuple(ObjectDescription(o.shape, o.color, o.size, o.motion) for o in scene.objects)
    return Description(objects, scene.background)


def canonical(description: Description) -> str:
    """The plainest caption with this meaning; ``parse`` gives the description back."""
    clauses = []
    for item in description.objects:
        words = ["a", item.size, item.color, item.shape, item.motion and PHRASES[item.motion][0]]
        clauses.append(" ".join(word for word in words if word))
    background = f" on a {description.background} background" if description.background else ""
    return " and ".join(clauses) + background


def caption(scene: Scene, rng: np.random.Generator, split: Split) -> str:
    """A caption of the clip: color, shape and motion of every object, often its size, now and then the background."""
    opening = _pick_opening(rng, CLIP_OPENINGS, HELD_OUT_CLIP_OPENING, split)
    clauses = []
    for item in scene.objects:
        held_out = split == "test" and rng.random() < HELD_OUT_PROBABILITY
        phrases = (HELD_OUT_PHRASES if held_out else PHRASES)[item.motion]
        phrase = _pick_plain(rng, phrases) if held_out else _pick(rng, phrases)
        clauses.append(_noun_phrase(item, rng) + (" that " if opening else " ") + phrase)
    connector = _pick(rng, NOUN_CONNECTORS if opening else CLAUSE_CONNECTORS)
    return _assemble(opening, clauses, connector, scene.background, rng)


def image_caption(scene: Scene, rng: np.random.Generator, split: Split) -> str:
    """A caption of the first frame: as ``caption``, without motions."""
    opening = _pick_opening(rng, IMAGE_OPENINGS, HELD_OUT_IMAGE_OPENING, split)
    noun_phrases = [_noun_phrase(item, rng) for item in scene.objects]
    return _assemble(opening, noun_phrases, _pick(rng, NOUN_CONNECTORS), scene.background, rng)


def _assemble(opening: str, clauses: list[str], connector: str, background: str, rng: np.random.Generator) -> str:
    order = rng.permutation(len(clauses))
    text = opening + connector.join(clauses[i] for i in order)
    if rng.random() < BACKGROUND_PROBABILITY:
        where = f"{_pick(rng, BACKGROUND_PREPOSITIONS)} {background} background"
        return f"{text} {where}" if opening or rng.random() < 0.7 else f"{where}, {text}"
    return text


def _noun_phrase(item: SceneObject, rng: np.random.Generator) -> str:
    size = _pick(rng, SIZE_WORDS[item.size]) + " " if rng.random() < SIZE_PROBABILITY else ""
    color, shape = _pick(rng, COLOR_WORDS[item.color]), _pick(rng, SHAPE_WORDS[item.shape])
    return f"{_pick(rng, DETERMINERS)} {size}{color} {shape}"


def _pick_opening(rng: np.random.Generator, openings: Sequence[str], held_out: str, split: Split) -> str:
    if split == "test" and rng.random() < HELD_OUT_PROBABILITY:
        return held_out
    return _pick(rng, openings)


def _pick(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[0] if rng.random() < CANONICAL_PROBABILITY else _pick_plain(rng, phrases)


def _pick_plain(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[rng.integers(len(phrases))]


def _any_of(phrases: Sequence[str]) -> str:
    # Longest first: "bounces up and down" must not be read as "bounces" and a second clause.
    return "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))


def _meanings(table: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {phrase: name for name, phrases in table.items() for phrase in phrases}


_COLOR_OF, _SHAPE_OF, _SIZE_OF = _meanings(COLOR_WORDS), _meanings(SHAPE_WORDS), _meanings(SIZE_WORDS)
_MOTION_OF = _meanings(PHRASES) | _meanings(HELD_OUT_PHRASES)
NOUN_PHRASE = (
    rf"(?:(?:{_any_of(DETERMINERS)}) )?(?:(?P<size>{_any_of(list(_SIZE_OF))}) )?"
    rf"(?:(?P<color>{_any_of(list(_COLOR_OF))}) )?(?P<shape>{_any_of(list(_SHAPE_OF))})"
)
_CLAUSE = re.compile(rf"{NOUN_PHRASE}\b(?:(?: that)? (?P<motion>{_any_of(list(_MOTION_OF))})\b)?")
_CONNECTOR = re.compile(_any_of(CLAUSE_CONNECTORS))
_OPENING = re.compile(_any_of([*CLIP_OPENINGS, HELD_OUT_CLIP_OPENING, *IMAGE_OPENINGS, HELD_OUT_IMAGE_OPENING]))
_WHERE = rf"(?:{_any_of(BACKGROUND_PREPOSITIONS)}) (?P<background>{_any_of(BACKGROUNDS)}) background"
_WHERE_FIRST, _WHERE_LAST = re.compile(rf"^{_WHERE}, "), re.compile(rf" {_WHERE}$")


def normalize(text: str) -> str:
    """Lower case, single spaces, no full stop at the end, American spelling of gray."""
    return " ".join(text.lower().split()).removesuffix(".").replace("grey", "gray")


def object_description(match: re.Match[str]) -> ObjectDescription:
    """The object that a match of ``NOUN_PHRASE`` names, with its motion if the pattern had one."""
    groups = match.groupdict(default="")
    return ObjectDescription(
        shape=_SHAPE_OF[groups["shape"]],
        color=_COLOR_OF.get(groups["color"]),
        size=_SIZE_OF.get(groups["size"]),
        motion=_MOTION_OF.get(groups.get("motion", "")),
    )


def parse(text: str) -> Description:
    """Read a caption of either split, or any sentence of the grammar.

    Raises:
        StarflowError: the text is outside the grammar; the message quotes where reading stopped.
    """
    rest = normalize(text)
    background = None
    for pattern in (_WHERE_FIRST, _WHERE_LAST):
        if where := pattern.search(rest):
            background = where["background"]
            rest = rest[: where.start()] + rest[where.end() :]
            break
    if opening := _OPENING.match(rest):
        rest = rest[opening.end() :]
    objects = []
    while True:
        clause = _CLAUSE.match(rest)
        if not clause:
            raise _outside_grammar(text, rest)
        objects.append(object_description(clause))
        rest = rest[clause.end() :]
        if not rest:
            return Description(tuple(objects), background)
        connector = _CONNECTOR.match(rest)
        if not connector:
            raise _outside_grammar(text, rest)
        rest = rest[connector.end() :]


def _outside_grammar(text: str, rest: str) -> StarflowError:
    where = f"cannot read {rest.strip()!r}" if rest else "it ends too early"
    return StarflowError(
        f"not a toyworld caption: {text!r} ({where}). Write for example 'a small red circle moves right and a blue "
        f"square grows'; colors: {', '.join(COLORS)}; shapes: {', '.join(SHAPES)}; "
        f"motions: {', '.join(phrases[0] for phrases in PHRASES.values())}"
    )
