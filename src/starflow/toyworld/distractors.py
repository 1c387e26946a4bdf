"""Captions that are nearly right: one thing that they say of a clip is not so."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from starflow.toyworld.captions import clauses, parse
from starflow.toyworld.grammar import COLOR_WORDS, PHRASES, SHAPE_WORDS, SIZE_WORDS, Description, pick
from starflow.toyworld.vocabulary import HELD_OUT

WORDS: dict[str, Mapping[str, Sequence[str]]] = {
    "size": SIZE_WORDS,
    "color": COLOR_WORDS,
    "shape": SHAPE_WORDS,
    "motion": PHRASES,
}
SWAP_PROBABILITY = 0.85  # that the distractor, of two objects, gives each what belongs to the other
# How much more often than another an attribute is chosen among those that the text names: the hardest to learn first.
WEIGHTS = {"size": 1, "color": 2, "shape": 4, "motion": 10}


def distractor(text: str, rng: np.random.Generator) -> str:
    """A caption in the words of `text`, as `caption` or `image_caption` wrote it, but for one attribute.

    Of two objects that differ in it they are mostly exchanged, else one object is given another. No object of the
    distractor is of a held-out combination unless one of `text` was.

    Raises:
        StarflowError: the text is outside the grammar.
    """
    truth = parse(text)
    while True:
        change = _swap if len(truth.objects) == 2 and rng.random() < SWAP_PROBABILITY else _replace
        changed = change(text, rng)
        said = parse(changed)
        if Counter(said.objects) != Counter(truth.objects) and _num_held_out(said) <= _num_held_out(truth):
            return changed


def _swap(text: str, rng: np.random.Generator) -> str:
    one, other = clauses(text)
    name = _pick_attribute([name for name in WORDS if one[name] and other[name]], rng)
    between = text[one.end(name) : other.start(name)]
    return text[: one.start(name)] + other[name] + between + one[name] + text[other.end(name) :]


def _replace(text: str, rng: np.random.Generator) -> str:
    objects = clauses(text)
    item = objects[rng.integers(len(objects))]
    name = _pick_attribute([name for name in WORDS if item[name]], rng)
    values = list(WORDS[name].values())
    return text[: item.start(name)] + pick(rng, values[rng.integers(len(values))]) + text[item.end(name) :]


def _pick_attribute(names: list[str], rng: np.random.Generator) -> str:
    weights = np.array([WEIGHTS[name] for name in names])
    return names[rng.choice(len(names), p=weights / weights.sum())]


def _num_held_out(description: Description) -> int:
    return sum((item.color, item.shape, item.motion) in HELD_OUT for item in description.objects)
