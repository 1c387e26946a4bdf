import numpy as np
from scipy.ndimage import gaussian_filter

from starflow.evaluation.metrics.sharpness import sharpness


def test_the_sharpness_of_a_known_edge():
    clip = np.zeros((2, 64, 64, 3), np.uint8)
    clip[:, :, 32:] = 255
    # Each of the two columns beside the edge has half of the step, in three channels.
    np.testing.assert_allclose(sharpness(clip, 0.01), np.sqrt(3) / 2, rtol=1e-6)
    np.testing.assert_allclose(sharpness(clip), np.sqrt(3) / 2 * 2 / 64, rtol=1e-6)
    blurred = gaussian_filter(clip.astype(float), (0, 2, 2, 0)).astype(np.uint8)
    assert (sharpness(blurred, 0.01) < 0.5 * sharpness(clip, 0.01)).all()
    assert (sharpness(np.zeros_like(clip)) == 0).all()
