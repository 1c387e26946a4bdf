import re

import numpy as np
import pytest

from starflow.errors import StarflowError
from starflow.toyworld.world import grammar
from starflow.toyworld.world.captions import canonical, caption, describe_scene, image_caption, parse
from starflow.toyworld.world.scene import scene_at

SPLITS = ("train", "test")
HELD_OUT = [
    *(phrase for phrases in grammar.HELD_OUT_PHRASES.values() for phrase in phrases),
    grammar.HELD_OUT_IMAGE_OPENING,
]


def samples(split, count=600):
    for i in range(count):
        scene, rng = scene_at(3, i, split), np.random.default_rng(i)
        yield scene, caption(scene, rng, split), image_caption(scene, rng, split)


def parts(description, *names):
    return sorted(tuple(getattr(item, name) for name in names) for item in description.objects)


@pytest.mark.parametrize("split", SPLITS)
def test_captions_parse_to_their_scene(split):
    for scene, text, image_text in samples(split):
        truth, read, read_image = describe_scene(scene), parse(text), parse(image_text)
        assert parts(read, "color", "shape", "motion") == parts(truth, "color", "shape", "motion"), text
        assert parts(read_image, "color", "shape") == parts(truth, "color", "shape"), image_text
        assert {item.motion for item in read_image.objects} == {None}
        for description in (read, read_image):
            assert description.background in (None, truth.background)
            for item in description.objects:
                sizes = {o.size for o in truth.objects if (o.color, o.shape) == (item.color, item.shape)}
                assert item.size in {None, *sizes}


def test_objects_are_usually_named_from_left_to_right():
    in_order = []
    for scene, text, image_text in samples("train"):
        if len(scene.objects) == 2:
            from_left = [(item.color, item.shape) for item in sorted(scene.objects, key=lambda item: item.x)]
            named = ([(item.color, item.shape) for item in parse(each).objects] for each in (text, image_text))
            in_order += [each == from_left for each in named]
    assert 0.8 < np.mean(in_order) < 0.9


@pytest.mark.parametrize("split", SPLITS)
def test_canonical_captions_parse_to_their_description(split):
    for scene, text, _ in samples(split, 200):
        assert parse(canonical(parse(text))) == parse(text)
        assert parse(canonical(describe_scene(scene))) == describe_scene(scene)


def test_held_out_paraphrases_occur_only_in_the_test_split():
    texts = {split: [text for _, *both in samples(split, 1500) for text in both] for split in SPLITS}
    for phrase in HELD_OUT:
        pattern = re.compile(rf"{phrase}\b")
        assert not any(map(pattern.search, texts["train"])), phrase
        assert any(map(pattern.search, texts["test"])), phrase
    assert not any(text.startswith("there is") and parse(text).objects[0].motion for text in texts["train"])
    words = {split: {word for text in texts[split] for word in text.replace(",", "").split()} for split in SPLITS}
    assert words["test"] <= words["train"]  # new combinations of known words


def test_every_phrase_has_one_meaning():
    for table in (grammar.COLOR_WORDS, grammar.SHAPE_WORDS, grammar.SIZE_WORDS):
        words = [word for row in table.values() for word in row]
        assert len(words) == len(set(words))
    phrases = [p for t in (grammar.PHRASES, grammar.HELD_OUT_PHRASES) for row in t.values() for p in row]
    assert len(phrases) == len(set(phrases))


def test_parsing_ignores_case_spaces_and_missing_words():
    read = parse("  A RED ball  Moves right on a dark grey background. ")
    assert canonical(read) == "a red circle moves right on a dark gray background"
    assert canonical(parse("circle bounces")) == "a circle bounces"


@pytest.mark.parametrize(
    "text",
    ["", "a dog runs", "a red circle moves", "a red circle moves right and", "a red circle on a pink background"],
)
def test_text_outside_the_grammar_is_an_error(text):
    with pytest.raises(StarflowError, match="not a toyworld caption"):
        parse(text)
