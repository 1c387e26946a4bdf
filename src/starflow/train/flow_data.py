"""What a flow's clips are fitted to and encoded with, from a training config."""

from collections.abc import Callable
from typing import NamedTuple, cast, get_args

from diffusers.configuration_utils import FrozenDict

from starflow.data.buckets import bucket_lengths, bucket_sizes
from starflow.data.fitting import ClipFormat, FrameChoice
from starflow.data.shots import require_scenedetect
from starflow.encoders.text import cut_off, load_text_encoder, wrap_captions
from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import FlowTrainConfig
from starflow.train.models import load_vae, pipeline_settings


class FlowFormat(NamedTuple):
    """The model to start from, if any, all settings of the model, the autoencoder, and the format of the clips."""

    init: StarFlowPipeline | None
    settings: FrozenDict
    codec: VideoCodec
    clip_format: ClipFormat


def open_format(config: FlowTrainConfig) -> FlowFormat:
    """The format of the clips of a config.

    Raises UsageError if a part is missing or a value is not valid, StarflowError if the model does not load.
    """
    init = None if config.init is None else StarFlowPipeline.from_pretrained(config.init)
    settings = pipeline_settings(config.pipeline, init)
    codec = VideoCodec(load_vae(config, init), settings.later_frame_scale)
    return FlowFormat(init, settings, codec, clip_format(config, settings, codec.spatial_factor))


def caption_cut_off(config: FlowTrainConfig, opened: FlowFormat) -> Callable[[str], str] | None:
    """A function that gives the end of a caption that the text encoder cuts off, or an empty text.

    None if the tokenizer is not there yet: it is trained on the captions.
    """
    if config.text_encoder is not None:
        tokenizer, _ = load_text_encoder(config.text_encoder)
    elif opened.init is not None:
        tokenizer = opened.init.tokenizer
    else:
        return None
    settings = opened.settings

    def of_caption(caption: str) -> str:
        (wrapped,) = wrap_captions([caption], settings, settings.fps)
        return cut_off(tokenizer, wrapped, settings.max_text_tokens)

    return of_caption


def clip_format(config: FlowTrainConfig, settings: FrozenDict, spatial_factor: int) -> ClipFormat:
    """What clips are fitted to. Raises UsageError if a value is not valid, StarflowError if an extra is missing."""
    if config.frames not in get_args(FrameChoice):
        raise UsageError(f"frames must be {' or '.join(get_args(FrameChoice))}, not {config.frames!r}")
    if config.shots:
        require_scenedetect()
    height, width = settings.height, settings.width
    return ClipFormat(
        settings.num_frames,
        settings.fps,
        height,
        width,
        tuple(bucket_sizes(config.buckets, height, width, spatial_factor)) if config.buckets.aspect_ratios else (),
        tuple(bucket_lengths(config.buckets, settings.num_frames)) if config.buckets.num_frames else (),
        cast(FrameChoice, config.frames),
        config.shots,
    )
