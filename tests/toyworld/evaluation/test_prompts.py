import re
from pathlib import Path

import numpy as np
import pytest

from starflow.errors import UsageError
from starflow.toyworld.evaluation.prompts import held_out_clips, held_out_prompts, read_prompts, scene_of
from starflow.toyworld.reader.checker import check
from starflow.toyworld.world.captions import describe_scene, parse
from starflow.toyworld.world.render import render
from starflow.toyworld.world.vocabulary import HELD_OUT


def test_held_out_prompts_are_held_out_and_depend_on_the_seed():
    for num_objects in (1, 2):
        prompts = held_out_prompts(0, 5, num_objects)
        for prompt in prompts:
            assert len(prompt.description.objects) == num_objects
            assert {(o.color, o.shape, o.motion) for o in prompt.scene.objects} <= HELD_OUT
        assert prompts == held_out_prompts(0, 5, num_objects)
        assert prompts[:2] == held_out_prompts(0, 2, num_objects)
        assert prompts != held_out_prompts(1, 5, num_objects)


def test_held_out_clips_are_held_out_and_their_captions_are_theirs():
    source = held_out_clips(3, 6)
    assert len(source) == 6
    for index in range(6):
        clip = source[index]
        (caption,) = clip.captions
        scene = source.scene(index)
        assert {(o.color, o.shape, o.motion) for o in scene.objects} <= HELD_OUT
        assert check(clip.video, caption).all_correct


# Published figures were measured on these clips, so they must stay the same.
def test_the_first_held_out_clip_is_the_one_that_published_figures_were_measured_on():
    clip = held_out_clips(0, 1)[0]
    assert clip.captions == ["a clip of one huge blue box that glides in a circle"]


def test_a_file_of_captions(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text(
        "# two captions\n\n  a red circle moves right \n\tthe blue box grows and a small green ball rests\n"
    )
    one, two = read_prompts(path, seed=0)
    assert one.caption == "a red circle moves right"
    assert [o.motion for o in two.description.objects] == ["grow", "still"]
    assert read_prompts(path, seed=0) == [one, two]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a red circle moves right\n\n# no\na purple elephant dances\n", "line 4: not a toyworld caption"),
        ("a red circle, and a blue circle, and a white square", "line 1: a toyworld clip has at most 2 objects"),
        ("# nothing\n\n", "holds no captions"),
        (b"\xff\xfe\x00", "is not a text file"),
    ],
)
def test_bad_files(tmp_path: Path, content: str | bytes, message: str):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message) as error:
        read_prompts(path, seed=0)
    assert re.search("prompts.txt", str(error.value))


@pytest.mark.parametrize(
    "caption",
    [
        "a small red circle moves right",
        "a triangle",
        "a white square grows on a gray background",
        "a small blue circle orbits and a yellow square stays still",
    ],
)
def test_a_scene_fits_its_description(caption: str):
    said = parse(caption)
    scene = scene_of(said, np.random.default_rng(0))
    for item, shown in zip(said.objects, describe_scene(scene).objects, strict=True):
        assert all(getattr(item, name) in (None, getattr(shown, name)) for name in ("shape", "color", "size", "motion"))
    assert said.background in (None, scene.background)
    assert check(render(scene), said).all_correct


def test_objects_that_cannot_stay_apart_still_get_a_scene():
    scene = scene_of(parse("a large red circle grows and a large red circle grows"), np.random.default_rng(0))
    assert len(scene.objects) == 2
