from collections import Counter

import numpy as np
import pytest

from starflow.toyworld.world.scene import REACH, sample_scene, scene_at, track
from starflow.toyworld.world.vocabulary import COLORS, COMBINATIONS, FRAME_SIZE, HELD_OUT, MOTIONS, SHAPES

SPLITS = ("train", "test")


def test_scenes_are_deterministic_and_random_access():
    forwards = [scene_at(7, i, "train") for i in range(20)]
    backwards = [scene_at(7, i, "train") for i in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 20
    assert scene_at(8, 0, "train") != scene_at(7, 0, "train") != scene_at(7, 0, "test")


def test_a_tenth_of_the_combinations_is_held_out_evenly():
    assert len(COMBINATIONS["train"]) + len(COMBINATIONS["test"]) == 162
    assert len(HELD_OUT) == 16
    colors, shapes, motions = (Counter(parts) for parts in zip(*HELD_OUT, strict=True))
    assert {colors[name] for name in COLORS} == {2, 3}
    assert {shapes[name] for name in SHAPES} == {5, 6}
    assert {motions[name] for name in MOTIONS} == {1, 2}


@pytest.mark.parametrize("split", SPLITS)
def test_splits_share_no_combination(split):
    scenes = [scene_at(0, i, split) for i in range(1000)]
    seen = {(item.color, item.shape, item.motion) for scene in scenes for item in scene.objects}
    assert seen == set(COMBINATIONS[split])
    single = np.mean([len(scene.objects) == 1 for scene in scenes])
    assert abs(single - {"train": 0.35, "test": 0.65}[split]) < 0.05


@pytest.mark.parametrize("split", SPLITS)
def test_objects_stay_within_the_frame(split):
    for i in range(400):
        for item in scene_at(1, i, split).objects:
            x, y, radius = track(item, num_frames=33).T
            margin = REACH * radius - 1e-3
            assert (np.minimum(x, y) >= margin).all(), item
            assert (np.maximum(x, y) <= FRAME_SIZE - margin).all(), item


def test_two_objects_differ_and_are_apart_in_most_frames():
    for i in range(200):
        first, second = sample_scene(np.random.default_rng(i), split="train", num_objects=2).objects
        assert (first.color, first.shape) != (second.color, second.shape)
        one, two = track(first), track(second)
        gap = np.abs(one[:, :2] - two[:, :2]).max(axis=1) - REACH * (one[:, 2] + two[:, 2])
        assert gap[0] > 0
        assert (gap > 0).mean() >= 2 / 3


def objects_that(motion, count=40):
    scenes = (scene_at(2, i, "train") for i in range(100_000))
    return [o for _, o in zip(range(count), (o for s in scenes for o in s.objects if o.motion == motion), strict=False)]


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_straight_motions_keep_their_speed_until_the_edge(motion, axis, sign):
    for item in objects_that(motion):
        steps = np.diff(track(item), axis=0)
        assert np.allclose(steps[:10, axis], sign * item.rate, atol=1e-4)
        assert not np.delete(steps, axis, axis=1).any()


def test_orbits_are_circles():
    for item in objects_that("orbit"):
        path = track(item)[:, :2].astype(np.float64)
        center = (item.x, item.y) - item.orbit_radius * np.array([np.cos(item.phase), np.sin(item.phase)])
        assert np.allclose(np.hypot(*(path - center).T), item.orbit_radius, atol=1e-3)
        assert abs(item.rate) * 16 >= 0.75 * 2 * np.pi


def test_bounces_fall_with_gravity_and_lose_height():
    for item in objects_that("bounce"):
        y = track(item, num_frames=200)[:, 1].astype(np.float64)
        assert np.allclose(np.diff(y[:4], n=2), item.rate, atol=1e-3)
        floor = FRAME_SIZE - REACH * item.radius
        first_hit = int(np.sqrt(2 * (floor - item.y) / item.rate)) + 1
        top = y[first_hit : first_hit + 10].min()
        assert item.y < top < floor - 5
        assert y[-1] == pytest.approx(floor, abs=1e-3)


@pytest.mark.parametrize("motion", ["grow", "shrink"])
def test_growing_and_shrinking_change_the_radius_by_at_least_1_8(motion):
    for item in objects_that(motion):
        radius = track(item, num_frames=33)[:, 2]
        ratio = radius[16] / radius[0]
        assert (ratio if motion == "grow" else 1 / ratio) >= 1.799
        assert (radius[16:] == radius[16]).all()


def test_a_scene_has_one_or_two_objects():
    with pytest.raises(ValueError, match="one or two objects, not 3"):
        sample_scene(np.random.default_rng(0), split="train", num_objects=3)
