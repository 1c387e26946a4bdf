"""Buckets: the sizes and lengths of clips in training. All clips of a batch are of one bucket.

A clip goes to the bucket with the nearest aspect ratio and, of these, to the longest one that it fills. A picture has
one frame. Batches of all buckets have about as many tokens, so that they take about as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import NamedTuple

from starflow.errors import UsageError
from starflow.media.sizes import size_of_aspect_ratio


class Bucket(NamedTuple):
    """The number of frames and their size in pixels."""

    num_frames: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """For messages, such as `17 frames of 848×480`."""
        size = f"{self.width}×{self.height}"
        return f"pictures of {size}" if self.num_frames == 1 else f"{self.num_frames} frames of {size}"


@dataclass
class BucketConfig:
    """The buckets of a training run, besides the size and length of the model.

    Attributes:
        aspect_ratios: width to height, such as "16:9"; the area is that of the model's size. None: the model's size.
        num_frames: lengths, such as 17 and 81. None: the model's length.
    """

    aspect_ratios: list[str] = field(default_factory=list)
    num_frames: list[int] = field(default_factory=list)


def bucket_sizes(config: BucketConfig, height: int, width: int, multiple: int) -> list[tuple[int, int]]:
    """Height and width of each aspect ratio at about the area of the model's size, which comes first.

    Both are multiples of `multiple`, the spatial factor of the autoencoder. Raises UsageError for a bad aspect ratio.
    """
    for ratio in config.aspect_ratios:
        if ratio.isdecimal():  # YAML reads 9:16 as a number to the base 60
            raise UsageError(f'buckets.aspect_ratios has {ratio}: put aspect ratios in quotes, such as "9:16"')
    side = sqrt(height * width)
    sizes = [size_of_aspect_ratio(ratio, side, multiple)[::-1] for ratio in config.aspect_ratios]
    return list(dict.fromkeys([(height, width), *sizes]))


def bucket_lengths(config: BucketConfig, num_frames: int) -> list[int]:
    """The lengths of the buckets and the model's, rising. Raises UsageError for one that no video has."""
    if any(length < 2 for length in config.num_frames):
        raise UsageError("buckets.num_frames are lengths of videos, 2 or more: pictures have buckets of their own")
    return sorted({num_frames, *config.num_frames})


def nearest_size(sizes: Sequence[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """Of several heights and widths those whose aspect ratio is nearest to that of a clip."""
    return min(sizes, key=lambda size: abs(log(size[1] * height / (size[0] * width))))


def balanced_batch_size(batch_size: int, tokens: int, model_tokens: int) -> int:
    """The number of clips of `tokens` tokens with as many tokens as `batch_size` clips of the model; at least 1."""
    return max(1, round(batch_size * model_tokens / tokens))
