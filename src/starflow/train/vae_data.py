"""The training clips and held-out clips of a VAE, from one source or two. All have one size and one frame rate.

Legend: F video frames.
"""

from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor

from starflow.data.clip import Clip, ClipSource
from starflow.data.loader import ClipLoader
from starflow.data.sources import build_source
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError, UsageError
from starflow.train.config import VAETrainConfig


class VAEData:
    """The training clips and the held-out clips.

    Attributes:
        train: the training clips.
        num_frames: length of the clips that a flow will be trained on: `excerpt_frames`, or that of the longest phase.

    Raises:
        UsageError: there are too few clips, or a size or a length does not fit the autoencoder.
        StarflowError: no clip can be read, or none is long enough for the longest phase.
    """

    def __init__(self, config: VAETrainConfig, codec: VideoCodec) -> None:
        self.codec = codec
        self.num_frames = _flow_length(config, codec)
        source, num_test = build_source(config.data), config.num_test_clips
        num_train = len(source) - (num_test if config.test_data is None else 0)
        if num_test < 1 or num_train < 1:
            raise UsageError(
                f"cannot hold out {num_test} of the {len(source)} clips of data: set num_test_clips to at least 1 and "
                "less than the number of clips, or set test_data"
            )
        first = _first_clip(source)
        fps = first.fps if config.fps is None else config.fps
        height, width = _video_size(config, first, codec.spatial_factor)
        self.train = ClipLoader(
            source,
            range(num_train),
            fps=fps,
            height=height,
            width=width,
            seed=config.loop.seed,
            num_workers=config.data_workers,
        )
        self.train.excerpts(
            0, 1, max(phase.num_frames for phase in config.phases)
        )  # an error is raised now, not in the last phase

        test_source, test_indices = source, range(num_train, len(source))
        if config.test_data is not None:
            test_source = build_source(config.test_data)
            test_indices = range(min(num_test, len(test_source)))
        self._test = ClipLoader(test_source, test_indices, fps=fps, height=height, width=width)
        next(self.held_out())

    def held_out(self) -> Iterator[Tensor]:
        """The held-out clips one by one, (1, F, 3, height, width) in [-1, 1]: the first `num_frames` frames or fewer.

        Raises StarflowError if none can be read.
        """
        num_clips = 0
        for index in self._test.indices:
            clip = self._test.beginning(index, self.num_frames)
            if clip is not None:
                num_clips += 1
                yield clip[None, : self.codec.largest_num_frames(len(clip))]
        if num_clips == 0:
            raise StarflowError(f"none of the {len(self._test.indices)} held-out clips can be read")


def _flow_length(config: VAETrainConfig, codec: VideoCodec) -> int:
    if not config.phases or config.excerpt_frames == 1:
        raise UsageError("phases needs at least one phase, and excerpt_frames must be more than 1")
    lengths = [phase.num_frames for phase in config.phases]
    num_frames = config.excerpt_frames or max(lengths)
    for length in (*lengths, num_frames):
        codec.num_latent_frames(length)  # raises UsageError
    return num_frames


def _first_clip(source: ClipSource) -> Clip:
    """The first clip that can be read."""
    for index in range(len(source)):
        with suppress(StarflowError):
            return source[index]
    raise StarflowError(f"none of the {len(source)} clips of data can be read")


def _video_size(config: VAETrainConfig, first: Clip, multiple: int) -> tuple[int, int]:
    """Height and width: the config's, or the first clip's, rounded down to a multiple for the autoencoder."""
    own_height, own_width = (max(multiple, side - side % multiple) for side in first.video.shape[1:3])
    height = own_height if config.height is None else config.height
    width = own_width if config.width is None else config.width
    if min(height, width) < 1 or height % multiple or width % multiple:
        raise UsageError(f"height and width must be multiples of {multiple} for this autoencoder, not {height}×{width}")
    return height, width
