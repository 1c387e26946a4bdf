import re
from collections import Counter

import numpy as np
import pytest

from starflow.toyworld.captions import caption, image_caption, parse
from starflow.toyworld.distractors import distractor
from starflow.toyworld.scene import scene_at
from starflow.toyworld.vocabulary import HELD_OUT


def said(description, name):
    return [getattr(item, name) for item in description.objects]


def differing(text, false):
    one, other = parse(text), parse(false)
    assert one.background == other.background and len(one.objects) == len(other.objects)
    return [name for name in ("size", "color", "shape", "motion") if said(one, name) != said(other, name)]


@pytest.mark.parametrize("write", [caption, image_caption])
def test_one_attribute_of_one_object_is_another_or_those_of_two_are_exchanged(write):
    found: Counter = Counter()
    for index in range(1000):
        rng = np.random.default_rng(index)
        text = write(scene_at(3, index, "train"), rng, "train")
        false = distractor(text, rng)
        (name,) = differing(text, false)
        before, after = said(parse(text), name), said(parse(false), name)
        exchanged = len(before) == 2 and before == after[::-1]
        assert exchanged or sum(one != other for one, other in zip(before, after, strict=True)) == 1
        found[name, len(before), exchanged] += 1
    names = {"size", "color", "shape"} | ({"motion"} if write is caption else set())
    kinds = ((1, False), (2, False), (2, True))
    assert set(found) == {(name, number, exchanged) for name in names for number, exchanged in kinds}


def test_no_held_out_combination_is_shown_to_training():
    for index in range(400):
        rng = np.random.default_rng(index)
        false = parse(distractor(caption(scene_at(3, index, "train"), rng, "train"), rng))
        assert not any((item.color, item.shape, item.motion) in HELD_OUT for item in false.objects)


def test_is_never_the_same_objects_in_another_order():
    text = "a red circle and a blue circle"
    for seed in range(50):
        false = parse(distractor(text, np.random.default_rng(seed)))
        assert Counter(false.objects) != Counter(parse(text).objects)


def test_keeps_the_words_of_the_rest():
    text = "here is one tiny scarlet ball that hops, and the violet wedge that rests on a gray background"
    kept = re.compile("here is one .+ that .+, and the .+ that .+ on a gray background")
    assert all(kept.fullmatch(distractor(text, np.random.default_rng(seed))) for seed in range(50))
