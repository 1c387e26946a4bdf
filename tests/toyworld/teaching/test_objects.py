import pytest
import torch

from starflow.toyworld.teaching.objects import MARGIN, OBJECT_WEIGHT, TYPICAL_SHARE, object_weights
from starflow.train.pixel_weights import load_pixel_weights
from starflow.train.vae import reconstruction_loss


def test_objects_and_their_margins_weigh_more_and_small_ones_as_much_as_large_ones():
    video = torch.full((2, 3, 2, 16, 16), -0.5)
    video[0, 0, 1, 6:8, 6:8] = 0.9  # 4 pixels, 64 with the margin, of the clip's 512
    video[1, 0, 1, 4:10, 4:10] = 0.9  # 36 and 144
    weights = object_weights(video)
    assert weights[:, 0, 0].eq(1).all()
    assert [int((each > 1).sum()) for each in weights] == [(2 + 2 * MARGIN) ** 2, (6 + 2 * MARGIN) ** 2]
    extra = (weights - 1).sum(dim=(1, 2, 3, 4))
    torch.testing.assert_close(extra, torch.full((2,), OBJECT_WEIGHT * TYPICAL_SHARE * 512))
    wrong_outline, wrong_background = video.clone(), video.clone()
    wrong_outline[0, :, 1, 6 - MARGIN, 6] += 0.1
    wrong_background[0, :, 1, 0, 0] += 0.1
    ratio = reconstruction_loss(wrong_outline, video, weights) / reconstruction_loss(wrong_background, video, weights)
    assert ratio == pytest.approx(1 + OBJECT_WEIGHT * TYPICAL_SHARE * 512 / 64, rel=1e-4)


def test_they_are_registered():
    assert load_pixel_weights("toyworld-objects") is object_weights
