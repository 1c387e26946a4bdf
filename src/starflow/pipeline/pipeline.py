"""`StarFlowPipeline`: from a caption, alone or with a picture or a clip, to a video.

    plan: captions → text encodings, pictures and clips → latents
    stages (`starflow.pipeline.stages`): noise → deep block, frame by frame → shallow blocks → denoiser → VAE → frames

Legend: `B` prompts, `F` video frames, `T` latent frames, `D` latent channels, `H W` latent rows and columns, `M` text
tokens.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan, DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from starflow.encoders.text import EXTEND, VIDEO_TO_VIDEO, cut_off, encode_text, wrap_captions
from starflow.encoders.video import VideoCodec
from starflow.encoders.vocabulary import unknown_words
from starflow.errors import StarflowError, UsageError
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.guidance import weight_of
from starflow.flow.loss import add_noise
from starflow.flow.model import StarFlow
from starflow.pipeline.actions import encode_actions, num_action_frames
from starflow.pipeline.callback import TENSOR_INPUTS, check_tensor_inputs, replace_frame
from starflow.pipeline.checks import (
    check_components,
    check_device_map,
    check_generator,
    check_output_type,
    checked_prompts,
    warn_of_unusual,
)
from starflow.pipeline.inputs import Given, encode_given
from starflow.pipeline.lora import LoraMixin
from starflow.pipeline.options import Options
from starflow.pipeline.session import Session
from starflow.pipeline.stages import VideoPlan, VideoStream, denoised, restored, sampled
from starflow.sampling.sampler import FrameCallback, Plan, RollingWindow, SamplingReport, solvers_named
from starflow.sampling.solvers import Solvers, require_finite
from starflow.sampling.windows import fastest_window
from starflow.weights.components import load_components
from starflow.weights.finite import require_finite_weights
from starflow.weights.hub import HUB_OPTIONS, only_local_if_unreachable
from starflow.weights.models import read_index, resolve_model

logger = logging.getLogger(__name__)

StepCallback = Callable[["StarFlowPipeline", int, int, dict[str, Any]], dict[str, Any] | None]
CUSTOM_PIPELINE = "from starflow.pipeline.pipeline import StarFlowPipeline\n"
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CONTEXT_SHARE = 0.75  # of a rolling window, by default: 16 of 21 latent frames


@dataclass
class StarFlowOutput(BaseOutput):
    """`frames`, as `output_type` says, and `report`: what the solvers did, and how exact the sample is."""

    frames: Any
    report: SamplingReport


class StarFlowPipeline(LoraMixin, DiffusionPipeline):
    """Text to video with a normalizing flow (STARFlow-V, arXiv 2511.20462)."""

    model_cpu_offload_seq = "text_encoder->flow->denoiser->vae"
    _optional_components = ["denoiser"]  # noqa: RUF012 (diffusers' own convention)
    _callback_tensor_inputs = TENSOR_INPUTS
    _interrupt = False

    vae: AutoencoderKLWan | AutoencoderKL
    text_encoder: T5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    flow: StarFlow
    denoiser: CausalDenoiser | None

    def __init__(
        self,
        vae: AutoencoderKLWan | AutoencoderKL,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        flow: StarFlow,
        denoiser: CausalDenoiser | None = None,
        noise_std: float = 0.5,
        num_frames: int = 81,
        fps: int | float = 16,
        height: int = 480,
        width: int = 848,
        guidance_scale: float = 4.5,
        max_text_tokens: int = 256,
        later_frame_scale: float = 1.0,
        caption_has_fps: bool = True,
        caption_has_noise_level: bool = False,
        caption_has_aspect_ratio: bool = False,
        sampler: str = "sliding",
        block_size: int = 16,
        shallow_block_size: int = 1,
        tolerance: float = 1e-2,
        caveats: dict[str, str] | None = None,
    ):
        """
        Args:
            vae, text_encoder, tokenizer, flow, denoiser: the models. Without a denoiser, the score of the flow
                denoises.
            noise_std: the noise level of the latents in training.
            num_frames, fps, height, width: of the videos in training, and by default of generated ones.
            guidance_scale: the default guidance.
            max_text_tokens: `M`: captions are padded and truncated to it.
            later_frame_scale: see `VideoCodec`.
            caption_has_fps, caption_has_noise_level, caption_has_aspect_ratio: the conditions around captions, see
                `wrap_caption`.
            sampler, block_size, shallow_block_size, tolerance: the default solvers, see `solvers_named`.
            caveats: what the model does badly, by the option of the call that asks for it.

        Raises:
            UsageError: the models do not fit together.
        """
        super().__init__()
        check_components(vae, text_encoder, flow, denoiser)
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, flow=flow, denoiser=denoiser)
        self.register_to_config(
            noise_std=noise_std,
            num_frames=num_frames,
            fps=fps,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            max_text_tokens=max_text_tokens,
            later_frame_scale=later_frame_scale,
            caption_has_fps=caption_has_fps,
            caption_has_noise_level=caption_has_noise_level,
            caption_has_aspect_ratio=caption_has_aspect_ratio,
            sampler=sampler,
            block_size=block_size,
            shallow_block_size=shallow_block_size,
            tolerance=tolerance,
            caveats=caveats,
        )
        self.video_processor = VideoProcessor()
        self._unknown_words: set[str] = set()  # that were warned of
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which have a lock of their own."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=RLock())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "StarFlowPipeline":
        """Load a bundled model by name (`toyworld`), a folder or a hub id, in float32 unless `dtype` is given.

        `kwargs` are those of `DiffusionPipeline.from_pretrained`. `HUB_OPTIONS` are used for every file; `revision` and
        `variant` only for those of this model, not for components that it takes from other repositories.

        Raises:
            UsageError: `device_map` is not a device.
            StarflowError: there is no such model, one of its files is damaged, or a weight is not finite.
        """
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        path = resolve_model(str(pretrained_model_name_or_path), **hub)
        check_device_map(kwargs.get("device_map"))
        if "torch_dtype" not in kwargs:  # the older name in diffusers
            kwargs.setdefault("dtype", torch.float32)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        index = read_index(path, **hub)
        hub.pop("revision", None)  # of this model, not of the components of other repositories
        kwargs = load_components(index, None if dtype == "auto" else dtype, **hub) | kwargs
        if not Path(path).is_dir():
            kwargs = only_local_if_unreachable(kwargs)
        try:
            with torch.inference_mode(False):  # the score is a gradient
                pipeline = super().from_pretrained(path, **kwargs)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StarflowError(f"cannot load the model {pretrained_model_name_or_path}: {reason}") from error
        for name, module in pipeline.components.items():
            if isinstance(module, torch.nn.Module):
                require_finite_weights(name, module)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write a folder for `from_pretrained`, with the code that `DiffusionPipeline.from_pretrained` needs."""
        super().save_pretrained(save_directory, *args, **kwargs)
        (Path(save_directory) / "pipeline.py").write_text(CUSTOM_PIPELINE)

    @property
    def codec(self) -> VideoCodec:
        """Pixels ⇄ latents, with the current `vae`."""
        return VideoCodec(self.vae, self.config.later_frame_scale)

    @property
    def components(self) -> dict[str, Any]:
        """All that `StarFlowPipeline(**components)` needs for the same videos: the models and the settings."""
        return super().components | {name: self.config[name] for name in self._get_signature_keys(self)[1]}

    def enable_sequential_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Refused, because the flow reads its weights outside of `forward`. Raises UsageError."""
        raise UsageError(
            "this pipeline cannot offload weight by weight: use enable_model_cpu_offload(), or "
            'starflow.hardware.placement.place(pipeline, device, "group")'
        )

    @property
    def interrupt(self) -> bool:
        """Whether a callback or another thread has set `_interrupt`: the video ends with the current latent frame."""
        return self._interrupt

    # --- the stages --------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str], fps: float, size: tuple[int, int] | None = None) -> Tensor:
        """Captions → text encodings `(B, M, width)`. Captions are wrapped in the template of training.

        `fps` is 0 for an image. `size` is height and width of the video, by default the model's. A warning names the
        end of a prompt that has too many tokens.
        """
        wrapped = wrap_captions(prompts, self.config, fps, size)
        for text in wrapped:
            if ignored := cut_off(self.tokenizer, text, self.config.max_text_tokens):
                logger.warning(
                    "a prompt is longer than the %d tokens that this model reads; its end is ignored: %r",
                    self.config.max_text_tokens,
                    ignored,
                )
        return encode_text(self.tokenizer, self.text_encoder, wrapped, self.config.max_text_tokens)

    @torch.inference_mode(False)
    def plan(self, prompt: str | Sequence[str], **options: Any) -> VideoPlan:
        """Encode the inputs of a video; see `__call__` for the arguments and errors."""
        asked: Any = Options.parse(options).with_defaults(self.config)  # options with a default are not None
        check_components(self.vae, self.text_encoder, self.flow, self.denoiser)  # they may have been replaced
        prompts = checked_prompts(prompt)
        self.warn_of_unknown_words(prompts)
        size = (asked.height, asked.width)
        given = encode_given(self.codec, asked, len(prompts))
        prompts = [each for each in prompts for _ in range(asked.num_videos_per_prompt or 1)]
        check_generator(asked.generator, len(prompts))
        num_frames = self._num_frames(asked, given)
        warn_of_unusual(asked, num_frames, self.config)
        shape = self.codec.latent_shape(len(prompts), num_frames, *size)
        rolling_window = self._rolling_window(shape[1], given, asked.context)
        num_hidden = 0 if given is None else given.num_hidden
        shape = (shape[0], shape[1] + num_hidden, *shape[2:])
        noise = self._noise(shape, asked)
        prefix = None
        if given is not None:
            prefix = add_noise(given.latents.to(noise.device), self.config.noise_std, asked.generator)
        marker = "" if given is None else given.marker
        fps = asked.fps if num_frames > 1 else 0
        text = self.encode_prompt([marker + each for each in prompts], fps, size)
        later_prompts = [EXTEND + each for each in prompts]  # what the rolling window shows is a continuation
        weight = weight_of(asked.guidance_scale)
        sampling = Plan(
            noise=noise,
            text=text,
            null_text=self.encode_prompt([""], fps, size).expand_as(text) if weight else None,
            guidance_weight=weight,
            later_text=None if rolling_window.size is None else self.encode_prompt(later_prompts, fps, size),
            actions=encode_actions(self.flow, self.codec, asked.actions, len(prompts), num_frames, num_hidden),
            prefix=prefix,
            rolling_window=rolling_window,
            solvers=self.solvers(asked, len(prompts)),
        )
        return VideoPlan(sampling, given, num_frames, asked.fps)

    def solvers(self, asked: Any, batch_size: int = 1) -> Solvers:
        """The solvers that options with defaults ask for, with the window that is fastest for so many videos."""
        return solvers_named(
            asked.sampler,
            tolerance=asked.tolerance,
            block_size=fastest_window(self.flow, batch_size) or self.config.block_size,
            shallow_block_size=self.config.shallow_block_size,
            max_sweeps=asked.max_sweeps,
            on_unconverged=asked.on_unconverged or "warn",
        )

    def warn_of_unknown_words(self, prompts: Sequence[str]) -> None:
        """Log the words that no caption of training had; each word once."""
        words = dict.fromkeys(word for prompt in prompts for word in unknown_words(self.tokenizer, prompt))
        if new := [word for word in words if word not in self._unknown_words]:
            self._unknown_words.update(new)
            logger.warning(
                "this model knows nothing of %s: no caption of its training had it", ", ".join(map(repr, new))
            )

    @torch.inference_mode(False)
    def steer(self, plan: VideoPlan, prompt: str) -> None:
        """Change the caption of the videos that are being made: for a callback. It holds from the next latent frame on.

        The denoiser keeps the first caption. Raises UsageError if the prompt is empty.
        """
        (prompt,), sampling = checked_prompts(prompt), plan.sampling
        height, width = (side * self.codec.spatial_factor for side in sampling.noise.shape[-2:])
        marker = "" if plan.given is None else plan.given.marker
        text = self.encode_prompt([marker + prompt, EXTEND + prompt], plan.fps, (height, width))
        sampling.text, later_text = (each.expand_as(sampling.text) for each in text.split(1))
        sampling.later_text = None if sampling.later_text is None else later_text

    def _noise(self, shape: tuple[int, ...], asked: Options) -> Tensor:
        """The given noise, or new noise."""
        if asked.latents is None:
            return randn_tensor(shape, asked.generator, self._execution_device, torch.float32)
        if tuple(asked.latents.shape) != shape:
            raise UsageError(f"latents must have the shape {shape}, not {tuple(asked.latents.shape)}")
        return asked.latents.to(self._execution_device)

    def _num_frames(self, asked: Options, given: Given | None) -> int:
        """The length of the video: by default, that of the edited clip or of the actions, or that of training after
        the given frames.
        """
        num_frames = asked.num_frames
        if asked.actions is not None and num_frames is None:
            num_frames = num_action_frames(asked.actions)
        if given is None:
            return self.config.num_frames if num_frames is None else num_frames
        if given.marker == VIDEO_TO_VIDEO:
            length = 1 + (given.num_frames - 1) * self.codec.temporal_factor
            if num_frames not in (None, length):
                raise UsageError(f"an edited video is as long as its source: {length} frames, not {num_frames}")
            return length
        in_front = max(0, given.num_frames - given.num_hidden - 1) * self.codec.temporal_factor
        return self.config.num_frames + in_front if num_frames is None else num_frames

    def _rolling_window(self, num_latent_frames: int, given: Given | None, context: int | None) -> RollingWindow:
        """The rolling window of a video longer than in training: it is as long as a video of training."""
        if num_latent_frames <= self.codec.num_latent_frames(self.config.num_frames):
            return RollingWindow()
        if given is not None and given.num_hidden:
            raise UsageError(
                f"with a video to edit or a last frame, a video has at most the {self.config.num_frames} frames that "
                "this model was trained on: ask for fewer, or cut the source"
            )
        return self.rolling_window(context)

    def rolling_window(self, context: int | None = None) -> RollingWindow:
        """A rolling window as long as a video of training, which keeps `context` latent frames."""
        size = self.codec.num_latent_frames(self.config.num_frames)
        return RollingWindow(size, round(CONTEXT_SHARE * size) if context is None else context)

    def denoise(self, latents: Tensor, text: Tensor) -> Tensor:
        """Latents `(B, T, D, H, W)` at noise level `noise_std` → clean latents, by the denoiser or by the score."""
        return torch.cat(list(denoised(self.flow, self.denoiser, self.config.noise_std, [latents], text)), dim=1)

    def _latents(self, plan: VideoPlan, frames_at_once: int, on_frame: FrameCallback) -> Iterator[Tensor]:
        """Clean latents `(B, t, D, H, W)` of the video, as they become ready."""
        noisy = plan.clock("sampling", sampled(self.flow, plan.sampling, frames_at_once, on_frame))
        text, actions, noise_std = plan.sampling.text, plan.sampling.actions, self.config.noise_std
        clean = denoised(self.flow, self.denoiser, noise_std, noisy, text, actions, plan.look_ahead)
        return restored(plan.clock("denoising", clean), plan.given)

    # --- all of it ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        **options: Any,
    ) -> StarFlowOutput:
        """Make one video for each prompt, or `num_videos_per_prompt`. Calls from several threads wait for each other.

        Args:
            prompt: a caption, or several.
            output_type: `pil` (a list of lists of images), `np` `(B, F, height, width, 3)` or `pt`
                `(B, F, 3, height, width)` in [0, 1], or `latent` `(B, T, D, H, W)`, denoised.
            return_dict: False for the tuple `(frames, report)`.
            callback_on_step_end: called as `(pipeline, frame, frame, {"latents": u})` for each latent frame `u`
                `(B, 1, H, W, D)` that the deep block has finished. If it returns `{"latents": …}`, they replace `u`,
                and later frames are sampled given them. After `pipeline._interrupt = True`, the video ends with this
                frame.
            callback_on_step_end_tensor_inputs: None or `["latents"]`.
            options: see `Options`.

        Raises:
            TypeError: an option is unknown.
            UsageError: a prompt is empty, the VAE cannot make this number of frames or this size, the output type is
                unknown, the given pictures and clips exclude each other, or they are as long as the video.
            StarflowError: NaN in the sample.
        """
        check_output_type(output_type, OUTPUT_TYPES)
        check_tensor_inputs(callback_on_step_end_tensor_inputs)
        with self._lock:
            plan = self.plan(prompt, **options)
            pieces = self.make(plan, plan.sampling.num_frames, output_type, callback_on_step_end)
            frames = torch.cat(list(pieces), dim=1)
        if output_type != "latent":
            frames = self._postprocess(frames, output_type)
        output: Any = StarFlowOutput(frames=frames, report=plan.sampling.report)
        return output if return_dict else output.to_tuple()

    def stream(
        self,
        prompt: str,
        *,
        output_type: str = "pil",
        frames_at_once: int = 1,
        look_ahead: bool = True,
        callback_on_step_end: StepCallback | None = None,
        **options: Any,
    ) -> VideoStream:
        """Make one video and yield its frames as soon as they are ready. Memory does not grow with the video.

        The frames equal those of `__call__` with the same noise, except without `look_ahead`.

        Args:
            prompt: a caption.
            output_type: of a frame's `image`: `pil`, `np` `(height, width, 3)` or `pt` `(3, height, width)` in [0, 1].
            frames_at_once: number of latent frames in a batch of the shallow blocks. With 1, the first frame is ready
                earliest; with more, the whole video takes less time.
            look_ahead: False to denoise each frame without later ones. The first frame is then ready after one latent
                frame instead of one and those of the denoiser's look-ahead.
            callback_on_step_end, options: as in `__call__`.

        Raises:
            TypeError, UsageError, StarflowError: as in `__call__`. Errors in sampling are raised while frames are read.
        """
        check_output_type(output_type, OUTPUT_TYPES[:3])
        if not isinstance(prompt, str) or options.get("num_videos_per_prompt") not in (None, 1):
            raise UsageError("a stream makes one video: give one prompt")
        with self._lock:
            plan = self.plan(prompt, **options)
        plan.look_ahead = look_ahead
        pieces = self.make(plan, frames_at_once, output_type, callback_on_step_end)
        images = (image for piece in pieces for image in self._postprocess(piece, output_type)[0])
        return VideoStream(images, plan, self._lock)

    def session(self, prompt: str = "", **options: Any) -> Session:
        """Start a video that a player continues step by step: see `Session`.

        Args:
            prompt: a caption; empty for none.
            options: `image`, the first frame, or `clip`, the first frames, and with it their `actions` `(F, A)`; or
                none of them, and the first frame is generated. `max_rewind` (32) is how many steps can be undone. Of
                `Options`: `generator`, `height`, `width`, `fps`, `guidance_scale`, `sampler`, `tolerance`,
                `max_sweeps`, `on_unconverged`, `context`.

        Raises:
            TypeError, UsageError, StarflowError: as in `__call__`; also if the model has no denoiser or is of images.
        """
        return Session(self, prompt, **options)

    @torch.inference_mode(False)  # a stream that began in it may be read on outside of it
    def make(
        self, plan: VideoPlan, frames_at_once: int, output_type: str = "pt", callback: StepCallback | None = None
    ) -> Iterator[Tensor]:
        """Run the stages: yield videos `(B, f, 3, height, width)` in [-1, 1], or clean latents for `latent`.

        The arguments are those of `stream`, and a plan of `plan`.
        """
        self._interrupt = False
        num_generated = plan.sampling.num_frames - plan.sampling.num_given
        with self.progress_bar(total=num_generated + self.codec.num_latent_frames(plan.num_frames)) as bar:

            def on_frame(index: int, u: Tensor) -> bool:
                bar.update()
                if callback is not None:
                    replace_frame(u, callback(self, index, index, {"latents": u}))
                return self.interrupt

            bar.set_description("sampling and decoding")
            pieces = self._latents(plan, frames_at_once, on_frame)
            try:
                if output_type == "latent":
                    yield from pieces
                    return
                for video in plan.clock("decoding", self.codec.stream_decode(pieces)):
                    bar.update()
                    yield require_finite(video, "the decoded video")
            finally:
                self.maybe_free_model_hooks()

    def _postprocess(self, video: Tensor, output_type: str) -> Any:
        return self.video_processor.postprocess_video(video.transpose(1, 2), output_type=output_type)
