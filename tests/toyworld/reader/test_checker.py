import inspect

import numpy as np
import pytest
from scipy import ndimage

from starflow.toyworld.reader import blobs, checker, tracks
from starflow.toyworld.reader.checker import check, describe, name_background
from starflow.toyworld.world.captions import describe_scene
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, SceneObject, sample_scene, track

COUNT = 50


@pytest.fixture(scope="module")
def samples():
    """Scenes of one and of two objects, and their clips."""
    scenes = [
        sample_scene(np.random.default_rng([5, i]), split="test", num_objects=1 + i % 2) for i in range(2 * COUNT)
    ]
    return [(scene, render(scene)) for scene in scenes]


def share_correct(pairs):
    return np.mean([check(clip, describe_scene(scene)).all_correct for scene, clip in pairs])


def test_the_checker_is_right_on_rendered_clips(samples):
    assert share_correct(samples) >= 0.99


def test_the_checker_is_right_on_blurred_and_noisy_clips(samples):
    def degraded(clip):
        blurred = ndimage.gaussian_filter(clip.astype(np.float32), (0, 1, 1, 0))
        return np.clip(blurred + np.random.default_rng(0).normal(0, 6, clip.shape), 0, 255).astype(np.uint8)

    assert share_correct([(scene, degraded(clip)) for scene, clip in samples[::2]]) >= 0.97


def test_shuffled_captions_are_right_only_by_chance(samples):
    single = samples[::2]
    scenes = [scene for scene, _ in single]
    shifted = scenes[7:] + scenes[:7]
    by_chance = np.mean([describe_scene(a) == describe_scene(b) for a, b in zip(scenes, shifted, strict=True)])
    shuffled = [(scene, clip) for scene, (_, clip) in zip(shifted, single, strict=True)]
    assert share_correct(shuffled) == by_chance < 0.1


def test_tracks_follow_the_object(samples):
    for scene, clip in samples[:20:2]:
        (found,) = describe(clip)
        truth = track(scene.objects[0])
        # The triangle's center of mass is below the middle of its bounding box.
        offset = 0.35 * truth[:, 2:] * [0, 1] if found.shape == "triangle" else 0
        assert np.abs(found.centers - truth[:, :2] - offset).max() < 0.3
        assert np.nanstd(np.sqrt(found.areas) / truth[:, 2]) < 0.05


def still(color="red", shape="circle", x=32.0, y=32.0, radius=9.0):
    return SceneObject(color, shape, "large", "still", x, y, radius)


def drawn(coverage):
    """A clip of a green object on black, from its coverage (height, width) or (F, height, width)."""
    coverage = ndimage.gaussian_filter(coverage.astype(np.float64), [0] * (coverage.ndim - 2) + [0.6, 0.6])
    clip = np.broadcast_to(coverage, (17, 64, 64))[..., None] * [40, 200, 80]
    return clip.astype(np.uint8)


def disc(x, y, radius):
    rows, columns = np.indices((64, 64)) + 0.5
    return np.hypot(columns - x, rows - y) < radius


def test_other_shapes_have_no_name():
    rows, columns = np.indices((64, 64)) + 0.5 - 32
    diamond = abs(rows) + abs(columns) < 12
    ellipse = np.hypot(rows / 7, columns / 13) < 1
    upside_down = (rows > -8) & (np.sqrt(3) * abs(columns) + rows < 10)
    ring = (np.hypot(rows, columns) < 14) & (np.hypot(rows, columns) > 10)
    for coverage in (diamond, ellipse, upside_down, ring):
        (found,) = describe(drawn(coverage))
        assert (found.color, found.shape, found.motion) == ("green", None, "still")


def test_a_shape_that_changes_halfway_has_no_name():
    circle = drawn(disc(32, 32, 10))
    square = drawn(ndimage.maximum_filter(disc(32, 32, 1), 17))
    assert describe(circle)[0].shape == "circle"
    assert describe(square)[0].shape == "square"
    assert describe(np.concatenate([circle[:8], square[:9]]))[0].shape is None


@pytest.mark.parametrize(
    ("path", "motion"),
    [
        ([(20 + 2 * t, 32) for t in range(17)], "right"),
        ([(20 if t < 8 else 48, 32) for t in range(17)], None),  # jumps
        ([(16 + 2 * t, 16 + 2 * t) for t in range(17)], None),  # along the diagonal
        ([(32 + 14 * np.sin(t / 16 * 2 * np.pi), 32) for t in range(17)], None),  # back and forth
        ([(32, 50 - 10 * t + 0.6 * t**2) for t in range(17)], None),  # falls, but does not rebound
        ([(32 + 12 * np.cos(t / 10), 32 + 12 * np.sin(t / 10)) for t in range(17)], None),  # a quarter of a circle
        ([(32 + 12 * np.cos(t / 3), 32 + 12 * np.sin(t / 3)) for t in range(17)], "orbit"),
        ([(32, 48 - abs(30 * np.cos(t / 5))) for t in range(17)], "bounce"),
    ],
)
def test_motions_are_named_and_others_are_not(path, motion):
    (found,) = describe(drawn(np.stack([disc(x, np.clip(y, 8, 56), 7) for x, y in path])))
    assert found.motion == motion


def test_a_bounce_that_passes_behind_another_object_is_still_a_bounce():
    ball = SceneObject("purple", "circle", "small", "bounce", 30.052, 12.607, 6.134, rate=2.6493)
    passer_by = SceneObject("green", "circle", "small", "right", 17.245, 46.58, 6.438, rate=2.7511)
    scene = Scene((ball, passer_by), "gray")
    assert check(render(scene), describe_scene(scene)).all_correct


def test_two_objects_of_one_color_are_told_apart_after_they_touch():
    orbiting = SceneObject("blue", "square", "small", "orbit", 33.4, 36.3, 5.7, -0.38, orbit_radius=13.0, phase=6.18)
    rising = SceneObject("blue", "circle", "small", "up", 14.3, 52.1, 5.9, rate=2.25)
    scene = Scene((orbiting, rising), "charcoal")
    assert check(render(scene), describe_scene(scene)).all_correct


def test_the_number_of_objects_is_checked():
    one, two = Scene((still(),), "black"), Scene((still(), still("blue", "square", x=12.0, radius=8.0)), "black")
    assert check(render(two), "a red circle and a blue square").all_correct
    extra = check(render(two), "a red circle stays still")
    assert not extra.count
    assert not extra.all_correct
    assert extra.objects[0].motion
    missing = check(render(one), "a red circle stays still and a blue square stays still")
    assert not missing.all_correct
    assert missing.objects[0].color
    assert missing.objects[1].found is None
    assert missing.objects[1].color is False
    empty = check(np.full((17, 64, 64, 3), 8, np.uint8), "a red circle stays still")
    assert not empty.all_correct


def test_attributes_that_the_caption_does_not_mention_are_not_checked():
    result = check(render(Scene((still(),), "gray")), "a circle")
    (item,) = result.objects
    assert (item.color, item.shape, item.size, item.motion) == (None, True, None, None)
    assert result.background is None
    assert result.all_correct
    assert not check(render(Scene((still(),), "gray")), "a circle on a black background").all_correct


def test_a_single_image_has_no_motion():
    image = render(Scene((still(),), "charcoal"), num_frames=1)
    (found,) = describe(image)
    assert (found.color, found.shape, found.size, found.motion) == ("red", "circle", "large", None)
    assert name_background(image) == "charcoal"


def test_an_array_that_is_not_a_clip_is_an_error():
    with pytest.raises(ValueError, match="a clip is uint8"):
        describe(np.zeros((17, 3, 64, 64), np.uint8))


@pytest.mark.parametrize("module", [blobs, tracks, checker])
def test_the_reader_does_not_use_the_renderer(module):
    source = inspect.getsource(module)
    assert "starflow.toyworld.world.vocabulary" in source
    assert "starflow.toyworld.world.render" not in source
    assert "starflow.toyworld.world.scene" not in source
