import numpy as np
import pytest

from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene
from starflow.toyworld.world.violations import MIN_JUMP, VIOLATIONS, PlantedViolation, Violation, plant
from starflow.toyworld.world.vocabulary import NUM_FRAMES

SEEDS = range(12)


def planted(kind: Violation) -> list[PlantedViolation]:
    return [plant(kind, np.random.default_rng(seed), "test") for seed in SEEDS]


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_a_clip_follows_its_scene_until_the_violation(kind: Violation):
    for each in planted(kind):
        normal = render(each.scene)
        assert each.frames.shape == normal.shape
        assert each.frames.dtype == np.uint8
        assert 0 < each.frame < NUM_FRAMES - 1
        np.testing.assert_array_equal(each.frames[: each.frame], normal[: each.frame])
        assert (each.frames[each.frame] != normal[each.frame]).any()


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_the_same_seed_gives_the_same_violation(kind: Violation):
    for each, again in zip(planted(kind)[:2], planted(kind)[:2], strict=True):
        assert each.scene == again.scene
        np.testing.assert_array_equal(each.frames, again.frames)


def center(frame: np.ndarray, background: np.ndarray) -> np.ndarray:
    return np.argwhere((frame != background).any(axis=-1)).mean(axis=0)


def test_a_jump_is_long_and_stays_within_the_frame():
    for each in planted("jump"):
        background = render(Scene((), each.scene.background), 1)[0]
        normal = render(each.scene)
        for index in range(each.frame, NUM_FRAMES):
            moved = center(each.frames[index], background) - center(normal[index], background)
            assert np.hypot(*moved) > min(MIN_JUMP, 8) - 1
            area, normal_area = ((frames[index] != background).sum() for frames in (each.frames, normal))
            assert area == pytest.approx(normal_area, rel=0.3)  # no part is outside the frame


def test_a_recolored_object_keeps_shape_and_position():
    for each in planted("recolor"):
        background = render(Scene((), each.scene.background), 1)[0]
        normal = render(each.scene)
        covered = (each.frames != background).any(axis=-1)
        assert np.abs(covered.astype(int) - (normal != background).any(axis=-1)).sum() < 0.1 * covered.sum()


def test_a_vanished_object_leaves_the_background():
    for each in planted("vanish"):
        rest = each.frames[each.frame :]
        np.testing.assert_array_equal(rest, render(Scene((), each.scene.background), len(rest)))


def test_an_object_that_falls_through_the_floor_disappears():
    for each in planted("fall through the floor"):
        assert each.scene.objects[0].motion == "bounce"
        background = render(Scene((), each.scene.background))
        seen, normal = ((frames != background).any(axis=-1) for frames in (each.frames, render(each.scene)))
        assert not seen[-1].any()
        # In the frame of the violation, the object is lower than it should be or already gone.
        assert (
            seen[each.frame].any(axis=1).argmax() > normal[each.frame].any(axis=1).argmax()
            or not seen[each.frame].any()
        )
