import numpy as np
import pytest

from starflow.toyworld.world.render import BACKGROUND_VALUES, COLOR_VALUES, render, render_image
from starflow.toyworld.world.scene import Scene, SceneObject, scene_at
from starflow.toyworld.world.vocabulary import BACKGROUNDS, SHAPES

AREAS = {"circle": np.pi, "square": 1.8**2, "triangle": np.sqrt(3) / 4 * 2.4**2}  # in units of the squared radius


def still(color, shape, x=32.0, y=32.0, radius=10.0):
    return SceneObject(color, shape, "large", "still", x, y, radius)


def test_clip_layout():
    scene = scene_at(0, 0, "train")
    clip = render(scene)
    assert clip.shape == (17, 64, 64, 3)
    assert clip.dtype == np.uint8
    assert np.array_equal(render(scene), clip)
    assert np.array_equal(render_image(scene), clip[0])
    assert np.array_equal(render(scene, num_frames=5), clip[:5])


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_right_area_and_soft_edges(shape):
    image = render_image(Scene((still("white", shape, x=31.3, y=32.8),), "black")).astype(np.float64)
    coverage = (image[..., 0] - 8) / (245 - 8)
    assert coverage.sum() == pytest.approx(100 * AREAS[shape], rel=0.03)
    assert ((coverage > 0.1) & (coverage < 0.9)).sum() > 20
    rows, columns = np.nonzero(coverage > 0.5)
    assert columns.mean() + 0.5 == pytest.approx(31.3, abs=0.5)
    width_above, width_below = ((columns[rows == row].size) for row in (rows.min() + 2, rows.max() - 2))
    assert width_below > 2 * width_above if shape == "triangle" else abs(width_below - width_above) <= 2


def test_a_near_object_hides_a_far_one():
    red, blue = still("red", "square"), still("blue", "circle", x=36.0)
    for farther, nearer in ((red, blue), (blue, red)):
        image = render_image(Scene((farther, nearer), "black"))
        assert tuple(image[32, 34]) == COLOR_VALUES[nearer.color]  # where both overlap
        assert tuple(image[32, 24]) == COLOR_VALUES["red"]
        assert tuple(image[32, 44]) == COLOR_VALUES["blue"]


def test_backgrounds_are_ordered_from_dark_to_light():
    shades = [render_image(Scene((still("red", "circle"),), name))[0, 0].astype(int) for name in BACKGROUNDS]
    assert [tuple(shade) for shade in shades] == [BACKGROUND_VALUES[name] for name in BACKGROUNDS]
    assert (np.diff(shades, axis=0) > 20).all()
