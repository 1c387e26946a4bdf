"""The clips and the texts of a flow or a LoRA: what they are fitted to and encoded with, and their batches."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast, get_args

from diffusers.configuration_utils import FrozenDict
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from starflow.data.buckets import bucket_lengths, bucket_sizes
from starflow.data.clip import ClipSource
from starflow.data.encoding import open_latent_cache
from starflow.data.fitting import ClipFormat, FrameChoice
from starflow.data.shots import require_scenedetect
from starflow.data.tasks import DEFAULT_WEIGHTS, Mixture
from starflow.data.texts import TextCache
from starflow.encoders.text import cut_off, wrap_captions
from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import ClipsConfig, FlowTrainConfig, LoraTrainConfig
from starflow.train.models import load_base, load_text, load_vae, pipeline_settings
from starflow.train.processes import is_main, num_processes, rank


class FlowFormat(NamedTuple):
    """The model to start from, if any, all settings of the model, the autoencoder, and the format of the clips."""

    init: StarFlowPipeline | None
    settings: FrozenDict
    codec: VideoCodec
    clip_format: ClipFormat


def open_format(config: FlowTrainConfig | LoraTrainConfig) -> FlowFormat:
    """The format of the clips of a config.

    Raises UsageError if a part is missing or a value is not valid, StarflowError if the model does not load.
    """
    if isinstance(config, LoraTrainConfig):
        base = load_base(config)
        return FlowFormat(base, base.config, base.codec, clip_format(config, base.config, base.codec.spatial_factor))
    init = None if config.init is None else StarFlowPipeline.from_pretrained(config.init)
    settings = pipeline_settings(config.pipeline, init)
    codec = VideoCodec(load_vae(config, init), settings.later_frame_scale)
    return FlowFormat(init, settings, codec, clip_format(config, settings, codec.spatial_factor))


def open_mixture(config: ClipsConfig, source: ClipSource, opened: FlowFormat) -> Mixture:
    """The batches of a source. Latents that are missing are encoded first. Says what is left out, and which tasks are.

    Raises UsageError, StarflowError as `open_latent_cache` and `Mixture`.
    """
    cache = open_latent_cache(
        latents_folder(config),
        source,
        opened.codec,
        opened.clip_format,
        num_workers=config.data_workers,
        rank=rank(),
        world_size=num_processes(),
        show_progress=is_main(),
    )
    mixture = Mixture(
        cache,
        config.tasks,
        config.batch_size,
        config.short_clips,
        config.caption_dropout,
        config.loop.seed,
        config.action_dropout,
    )
    for line in (describe_tasks(mixture), *mixture.small_buckets()):
        tqdm.write(line)
    return mixture


def open_texts(
    config: ClipsConfig,
    mixture: Mixture,
    settings: FrozenDict,
    tokenizer: PreTrainedTokenizerBase,
    encoder: T5EncoderModel,
) -> TextCache:
    """The encodings of all captions of the batches, beside the latents. Those that are missing are encoded first."""
    cache = TextCache(latents_folder(config), tokenizer, encoder, settings.max_text_tokens)
    texts = (
        text
        for (num_frames, height, width), captions in mixture.captions()
        for text in wrap_captions(captions, settings, settings.fps if num_frames > 1 else 0, (height, width))
    )
    cache.fill(texts, rank=rank(), world_size=num_processes(), show_progress=is_main())
    return cache


def latents_folder(config: ClipsConfig) -> Path:
    """The folder of the encoded clips and texts."""
    return Path(config.latents or Path(config.output) / "latents")


def describe_tasks(mixture: Mixture) -> str:
    """One line for the terminal: the share of each task, and the tasks that are not trained."""
    shares = ", ".join(f"{task} {share:.0%}" for task, share in mixture.shares.items())
    without = [task for task in DEFAULT_WEIGHTS if task not in mixture.shares]
    return f"tasks: {shares}" + (f"; not trained: {', '.join(without)}" if without else "")


def caption_cut_off(config: ClipsConfig, opened: FlowFormat) -> Callable[[str], str] | None:
    """A function that gives the end of a caption that the text encoder cuts off, or an empty text.

    None if the tokenizer is not there yet: it is trained on the captions.
    """
    text = load_text(config, opened.init)
    if text is None:
        return None
    tokenizer, settings = text[0], opened.settings

    def of_caption(caption: str) -> str:
        (wrapped,) = wrap_captions([caption], settings, settings.fps)
        return cut_off(tokenizer, wrapped, settings.max_text_tokens)

    return of_caption


def clip_format(config: ClipsConfig, settings: FrozenDict, spatial_factor: int) -> ClipFormat:
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
