"""The actions that are given with the prompt, as features of latent frames.

Legend: `B` videos, `F` video frames, `T` latent frames, `A` components of an action, `E` features.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace, latent_features
from starflow.flow.model import StarFlow


def encode_actions(
    flow: StarFlow, codec: VideoCodec, actions: Any, num_videos: int, num_frames: int, num_hidden: int = 0
) -> Tensor | None:
    """Features `(B, T, E)` of the latent frames; None if `actions` is None.

    Args:
        flow: the model that takes the actions.
        codec: the autoencoder.
        actions: `(F, A)` for all videos or `(B, F, A)`, or `(F,)` if `A` is 1. The action of a frame led to it; that
            of the first frame is ignored.
        num_videos: `B`.
        num_frames: `F`.
        num_hidden: latent frames in front of the video, which have no actions.

    Raises:
        UsageError: the model takes no actions, or these are not `F` actions of its space.
    """
    if actions is None:
        return None
    space = require_action_space(flow)
    each = list(actions) if np.ndim(actions) == 3 else [actions] * num_videos
    if len(each) != num_videos:
        raise UsageError(f"actions must be those of one video or of all {num_videos}, not of {len(each)}")
    features = [latent_features(space.features(space.check(one, num_frames)), codec.temporal_factor) for one in each]
    return F.pad(torch.stack(features), (0, 0, num_hidden, 0)).to(flow.device)


def require_action_space(flow: StarFlow) -> ActionSpace:
    """The model's action space. Raises UsageError if it takes no actions."""
    if flow.action_space is None:
        raise UsageError("this model takes no actions: it was trained on clips without them")
    return flow.action_space


def num_action_frames(actions: Any) -> int:
    """`F`. Raises UsageError if there are no actions."""
    shape = np.shape(actions)
    if not shape or 0 in shape:
        raise UsageError(f"actions must be one for each frame, not {actions!r:.80}")
    return shape[-2] if len(shape) > 1 else shape[0]
