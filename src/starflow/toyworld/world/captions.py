"""Captions of toyworld scenes, with many paraphrases, and the parser that reads them back."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from starflow.errors import StarflowError
from starflow.toyworld.world.grammar import (
    BACKGROUND_PREPOSITIONS,
    CLAUSE_CONNECTORS,
    CLIP_OPENINGS,
    COLOR_WORDS,
    DETERMINERS,
    HELD_OUT_CLIP_OPENING,
    HELD_OUT_IMAGE_OPENING,
    HELD_OUT_PHRASES,
    IMAGE_OPENINGS,
    MOTION_OF,
    NOUN_CONNECTORS,
    NOUN_PHRASE,
    PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    Description,
    ObjectDescription,
    any_of,
    normalize,
    object_description,
    pick,
    pick_evenly,
)
from starflow.toyworld.world.scene import Scene, SceneObject, Split
from starflow.toyworld.world.vocabulary import BACKGROUNDS, COLORS, SHAPES

SIZE_PROBABILITY = 0.5
BACKGROUND_PROBABILITY = 0.3
LEFT_FIRST_PROBABILITY = 0.85  # that the object that starts further left is named first
HELD_OUT_PROBABILITY = 0.5  # of a held-out paraphrase wherever there is one, in the test split

_CLAUSE = re.compile(rf"{NOUN_PHRASE}\b(?:(?: that)? (?P<motion>{any_of(list(MOTION_OF))})\b)?")
_CONNECTOR = re.compile(any_of(CLAUSE_CONNECTORS))
_OPENING = re.compile(any_of([*CLIP_OPENINGS, HELD_OUT_CLIP_OPENING, *IMAGE_OPENINGS, HELD_OUT_IMAGE_OPENING]))
_WHERE = rf"(?:{any_of(BACKGROUND_PREPOSITIONS)}) (?P<background>{any_of(BACKGROUNDS)}) background"
_WHERE_FIRST, _WHERE_LAST = re.compile(rf"^{_WHERE}, "), re.compile(rf" {_WHERE}$")


def describe_scene(scene: Scene) -> Description:
    """Everything that a caption can say about a scene, with its objects ordered from far to near."""
    objects = tuple(ObjectDescription(o.shape, o.color, o.size, o.motion) for o in scene.objects)
    return Description(objects, scene.background)


def canonical(description: Description) -> str:
    """The plainest caption of a description; `parse` is the inverse."""
    clauses = []
    for item in description.objects:
        words = ["a", item.size, item.color, item.shape, item.motion and PHRASES[item.motion][0]]
        clauses.append(" ".join(word for word in words if word))
    background = f" on a {description.background} background" if description.background else ""
    return " and ".join(clauses) + background


def caption(scene: Scene, rng: np.random.Generator, split: Split) -> str:
    """A caption of the clip: color, shape and motion of every object, often its size, sometimes the background.

    Of two objects, the one that starts further left is usually named first.
    """
    opening = _pick_opening(rng, CLIP_OPENINGS, HELD_OUT_CLIP_OPENING, split)
    clauses = []
    for item in _in_order_of_naming(scene, rng):
        held_out = split == "test" and rng.random() < HELD_OUT_PROBABILITY
        phrases = (HELD_OUT_PHRASES if held_out else PHRASES)[item.motion]
        phrase = pick_evenly(rng, phrases) if held_out else pick(rng, phrases)
        clauses.append(_noun_phrase(item, rng) + (" that " if opening else " ") + phrase)
    connector = pick(rng, NOUN_CONNECTORS if opening else CLAUSE_CONNECTORS)
    return _assemble(opening, clauses, connector, scene.background, rng)


def image_caption(scene: Scene, rng: np.random.Generator, split: Split) -> str:
    """A caption of the first frame: like `caption`, without motions."""
    opening = _pick_opening(rng, IMAGE_OPENINGS, HELD_OUT_IMAGE_OPENING, split)
    noun_phrases = [_noun_phrase(item, rng) for item in _in_order_of_naming(scene, rng)]
    return _assemble(opening, noun_phrases, pick(rng, NOUN_CONNECTORS), scene.background, rng)


def _in_order_of_naming(scene: Scene, rng: np.random.Generator) -> list[SceneObject]:
    """The objects in the order of the caption: usually from left to right."""
    from_left = sorted(scene.objects, key=lambda item: item.x)
    return from_left if len(from_left) == 1 or rng.random() < LEFT_FIRST_PROBABILITY else from_left[::-1]


def _assemble(opening: str, clauses: list[str], connector: str, background: str, rng: np.random.Generator) -> str:
    text = opening + connector.join(clauses)
    if rng.random() < BACKGROUND_PROBABILITY:
        where = f"{pick(rng, BACKGROUND_PREPOSITIONS)} {background} background"
        return f"{text} {where}" if opening or rng.random() < 0.7 else f"{where}, {text}"
    return text


def _noun_phrase(item: SceneObject, rng: np.random.Generator) -> str:
    size = pick(rng, SIZE_WORDS[item.size]) + " " if rng.random() < SIZE_PROBABILITY else ""
    color, shape = pick(rng, COLOR_WORDS[item.color]), pick(rng, SHAPE_WORDS[item.shape])
    return f"{pick(rng, DETERMINERS)} {size}{color} {shape}"


def _pick_opening(rng: np.random.Generator, openings: Sequence[str], held_out: str, split: Split) -> str:
    if split == "test" and rng.random() < HELD_OUT_PROBABILITY:
        return held_out
    return pick(rng, openings)


def parse(text: str) -> Description:
    """Read a caption of either split, or any sentence of the grammar.

    Raises:
        StarflowError: the text is outside the grammar; the message quotes where reading stopped.
    """
    rest, _, background = _without_background(normalize(text))
    return Description(tuple(item for item, _ in _clauses(text, rest)), background)


def clause_ends(text: str) -> list[int]:
    """The positions at which the clauses of the objects end, in a text that `caption` wrote.

    Raises:
        StarflowError: the text is outside the grammar.
    """
    rest, start, _ = _without_background(text)
    return [start + end for _, end in _clauses(text, rest)]


def _without_background(text: str) -> tuple[str, int, str | None]:
    """The text without its background phrase, the number of characters cut from its start, and the background."""
    if where := _WHERE_FIRST.search(text):
        return text[where.end() :], where.end(), where["background"]
    if where := _WHERE_LAST.search(text):
        return text[: where.start()], 0, where["background"]
    return text, 0, None


def _clauses(text: str, rest: str) -> Iterator[tuple[ObjectDescription, int]]:
    """Each object that `rest`, a part of `text`, describes, and the position in `rest` at which its clause ends."""
    opening = _OPENING.match(rest)
    position = opening.end() if opening else 0
    while True:
        clause = _CLAUSE.match(rest, position)
        if not clause:
            raise _outside_grammar(text, rest[position:])
        position = clause.end()
        yield object_description(clause), position
        if position == len(rest):
            return
        connector = _CONNECTOR.match(rest, position)
        if not connector:
            raise _outside_grammar(text, rest[position:])
        position = connector.end()


def _outside_grammar(text: str, rest: str) -> StarflowError:
    where = f"cannot read {rest.strip()!r}" if rest else "it ends too early"
    return StarflowError(
        f"not a toyworld caption: {text!r} ({where}). Write for example 'a small red circle moves right and a blue "
        f"square grows'; colors: {', '.join(COLORS)}; shapes: {', '.join(SHAPES)}; "
        f"motions: {', '.join(phrases[0] for phrases in PHRASES.values())}"
    )
