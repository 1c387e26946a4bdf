from collections import Counter

import numpy as np
import pytest

from starflow.errors import StarflowError
from starflow.toyworld.reader.checker import check
from starflow.toyworld.world.captions import describe_scene
from starflow.toyworld.world.edits import Edit, parse_edit, sample_edit
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import scene_at, track
from starflow.toyworld.world.vocabulary import BACKGROUNDS, HELD_OUT

SPLITS = ("train", "test")


def samples(split, count=300):
    for i in range(count):
        scene = scene_at(4, i, split)
        yield scene, *sample_edit(scene, np.random.default_rng(i))


def fits(edit, item):
    target = edit.target
    return item.shape == target.shape and target.color in (None, item.color)


@pytest.mark.parametrize("split", SPLITS)
def test_instructions_are_unambiguous_and_describe_the_edited_scene(split):
    kinds = Counter()
    for scene, text, target in samples(split):
        edit = parse_edit(text)
        kinds[edit.kind] += 1
        if edit.kind == "background":
            step = BACKGROUNDS.index(target.background) - BACKGROUNDS.index(scene.background)
            assert step == {"lighter": 1, "darker": -1}[edit.value]
            assert target.objects == scene.objects
            continue
        meant = [i for i, item in enumerate(scene.objects) if fits(edit, item)]
        assert len(meant) == 1, text
        assert target.background == scene.background
        others = [item for i, item in enumerate(scene.objects) if i != meant[0]]
        if edit.kind == "remove":
            assert list(target.objects) == others
            continue
        changed = target.objects[meant[0]]
        assert getattr(changed, {"recolor": "color", "reshape": "shape"}[edit.kind]) == edit.value
        assert (changed.color, changed.shape, changed.motion) not in HELD_OUT
        assert np.array_equal(track(changed), track(scene.objects[meant[0]]))
        assert [item for i, item in enumerate(target.objects) if i != meant[0]] == others
        assert len({(item.color, item.shape) for item in target.objects}) == len(target.objects)
    assert set(kinds) == {"recolor", "reshape", "remove", "background"}


def test_the_checker_detects_each_edit():
    for scene, text, target in samples("train", 30):
        assert check(render(target), describe_scene(target)).all_correct, text
        assert not check(render(target), describe_scene(scene)).all_correct, text


def test_parse_edit():
    edit = parse_edit("Make the circle blue.")
    assert edit == Edit("recolor", edit.target, "blue")
    assert (edit.target.shape, edit.target.color) == ("circle", None)
    assert parse_edit("turn the violet box into a disc").value == "circle"
    assert parse_edit("use a darker background") == Edit("background", None, "darker")


@pytest.mark.parametrize("text", ["", "make it nicer", "make the circle pink", "remove the background"])
def test_text_outside_the_grammar_is_an_error(text):
    with pytest.raises(StarflowError, match="not a toyworld edit"):
        parse_edit(text)
