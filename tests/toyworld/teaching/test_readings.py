import numpy as np
import pytest

from starflow.toyworld.teaching.readings import read_caption, read_instruction, sample_reading
from starflow.toyworld.world.captions import canonical, parse
from starflow.toyworld.world.grammar import Description, ObjectDescription


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a red circle moves right", ["a red circle moves right"]),
        (
            "on a black background, a red circle moves right, and a square grows and gets bigger",
            ["on a black background, a red circle moves right", ", and a square grows and gets bigger"],
        ),
        (
            "a clip of a small red circle that rests while the square that orbits on a gray background",
            ["a clip of a small red circle that rests", " while the square that orbits on a gray background"],
        ),
    ],
)
def test_a_caption_is_split_into_its_objects(text, pieces):
    reading = read_caption(text, "clip")
    ends = [part.end for part in reading.parts]
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == pieces


def test_parts_have_the_attributes_that_the_text_states():
    said = [
        part.says
        for part in read_caption("a red disc rises and a huge square rests on a gray background", "clip").parts
    ]
    assert said == [
        {"order": "first", "color": "red", "shape": "circle", "motion": "up", "background": "gray"},
        {"order": "second", "size": "large", "shape": "square", "motion": "still", "background": "gray"},
    ]
    (part,) = read_instruction("turn the red disc into a square").parts
    assert part.says == {"color": "red", "shape": "circle", "kind": "reshape", "value": "square"}
    (part,) = read_instruction("make the background lighter").parts
    assert part.says == {"kind": "background", "value": "lighter"}


def test_the_parts_of_sampled_captions_describe_the_whole_caption():
    rng = np.random.default_rng(0)
    for _ in range(300):
        reading = sample_reading(rng, "test")
        assert reading.parts[-1].end == len(reading.text)
        if reading.kind == "edit":
            continue
        objects = tuple(
            ObjectDescription(**{name: part.says.get(name) for name in ("shape", "color", "size", "motion")})
            for part in reading.parts
        )
        description = Description(objects, reading.parts[0].says.get("background"))
        assert parse(canonical(description)) == parse(reading.text)
