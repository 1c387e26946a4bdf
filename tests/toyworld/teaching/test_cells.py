from dataclasses import replace

import numpy as np

from starflow.toyworld.teaching.cells import ATTRIBUTES, NOTHING, ground
from starflow.toyworld.world.render import render_image
from starflow.toyworld.world.scene import Scene, scene_at


def test_cells_are_labelled_with_the_objects_seen_in_them():
    for index in range(30):
        scene = scene_at(2, index, "train")
        cells = ground(scene, 4, 4)
        assert cells.shape == (3, 4, 4)
        frame = render_image(scene).astype(int)
        empty = render_image(Scene((), scene.background)).astype(int)
        seen = np.abs(frame - empty).max(axis=2).reshape(4, 16, 4, 16).max(axis=(1, 3)) > 0
        assert not np.any((cells != NOTHING) & ~seen)
        said = {tuple(cells[:, row, column]) for row, column in zip(*np.nonzero(cells[0] != NOTHING), strict=True)}
        names = {
            tuple(values.index(getattr(item, name)) for name, values in ATTRIBUTES.items()) for item in scene.objects
        }
        assert said == names


def test_the_nearer_object_hides_the_farther():
    scene = next(scene for scene in (scene_at(2, index, "train") for index in range(50)) if len(scene.objects) == 2)
    far, near = scene.objects
    curtain = replace(near, shape="square", color="white" if far.color != "white" else "red", motion="still", radius=99)
    colors = ground(Scene((far, curtain), "black"), 4, 4)[0]
    assert set(colors.flat) == {ATTRIBUTES["color"].index(curtain.color)}
