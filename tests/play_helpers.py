"""What the tests of `starflow.play` share: a tiny game and its messages."""

import json
from typing import Any

import numpy as np

from starflow.flow.actions import ActionSpace
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.starts import Start
from tiny_pipeline import CAPTIONS, playable_pipeline

SPACE = ActionSpace(
    sizes=(3, 2),
    names=(("", "left", "right"), ("", "shoot")),
    keys=(("", "KeyA", "KeyD"), ("", "Space")),
)
RATE = 25  # frames per second


def tiny_game() -> StarFlowPipeline:
    """A model of 32×32 frames, 25 per second, that takes the actions of `SPACE`."""
    pipeline = playable_pipeline(SPACE)
    pipeline.register_to_config(fps=RATE)
    return pipeline


def tiny_starts() -> list[Start]:
    """Two starts: one of 3 frames with actions, and a caption alone."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    return [Start("hall", CAPTIONS[0], frames, np.array([[0, 0], [1, 0], [2, 1]])), Start("nothing", CAPTIONS[1])]


def unpacked(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a binary message."""
    end = 4 + int.from_bytes(message[:4], "little")
    return json.loads(message[4:end]), message[end:]


def frames_in(message: bytes) -> np.ndarray:
    header, data = unpacked(message)
    return np.frombuffer(data, np.uint8).reshape(*header["shape"], 3)
