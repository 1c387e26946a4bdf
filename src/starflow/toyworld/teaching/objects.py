"""Weights of pixels for training an autoencoder on toyworld, whose objects are small: without them, shapes blur."""

import torch.nn.functional as F
from torch import Tensor

OBJECT_WEIGHT = 6.0  # added to the weight 1 of the background
OBJECT_THRESHOLD = 0.02  # smallest distance of an object's pixels from the background, in [-1, 1]
MARGIN = 3  # pixels around an object in which its outline can be wrong
TYPICAL_SHARE = 0.2  # share of a clip's pixels that are of objects or within the margin


def object_weights(video: Tensor) -> Tensor:
    """Weights (B, 1, F, height, width) of the pixels of (B, 3, F, height, width): larger on objects and near them.

    Pixels within `MARGIN` of an object weigh as much as the object: the outline of a circle that becomes a square errs
    there. The weight is 1 + `OBJECT_WEIGHT` if these pixels are `TYPICAL_SHARE` of the clip, and inversely proportional
    to their share: the shape of a small object counts as much as that of a large one. The background's color is the
    median of the first frame.
    """
    background = video[:, :, 0].flatten(2).median(dim=-1).values[:, :, None, None, None]
    is_object = (video - background).abs().amax(dim=1, keepdim=True) > OBJECT_THRESHOLD
    size = 2 * MARGIN + 1
    is_near = F.max_pool3d(is_object.float(), (1, size, size), stride=1, padding=(0, MARGIN, MARGIN))
    share = is_near.mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=TYPICAL_SHARE / 5)
    return 1 + OBJECT_WEIGHT * TYPICAL_SHARE / share * is_near
