"""`StarFlowPipeline`: a sentence becomes a video.

    prompt → text encodings → noise → deep block, frame by frame → shallow blocks → denoiser → VAE → frames

Legend: `B` prompts, `F` video frames, `T` latent frames, `D` latent channels, `H W` latent rows and columns, `M` text
tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan, DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from starflow.errors import StarflowError, UsageError
from starflow.flow.denoiser import CausalDenoiser, score_prediction, tweedie_step
from starflow.flow.model import StarFlow, flow_loss
from starflow.sampling.sampler import SamplingReport, sample
from starflow.sampling.solvers import Solver, require_finite, solver_named
from starflow.text import encode_text, wrap_caption
from starflow.vae import VideoCodec
from starflow.zoo import resolve_model

StepCallback = Callable[["StarFlowPipeline", int, int, dict[str, Any]], dict[str, Any] | None]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class StarFlowOutput(BaseOutput):
    """`frames`: what `output_type` asks for; `report`: what the solvers did, and how exact the sample is."""

    frames: Any
    report: SamplingReport


class StarFlowPipeline(DiffusionPipeline):
    """Text to video with a normalizing flow (STARFlow-V, arXiv 2511.20462)."""

    model_cpu_offload_seq = "text_encoder->flow->denoiser->vae"
    _optional_components = ["denoiser"]  # noqa: RUF012 (diffusers' own convention)

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
        guidance_scale: float = 3.5,
        max_text_tokens: int = 256,
        later_frame_scale: float = 1.0,
        caption_has_fps: bool = True,
        caption_has_noise_level: bool = False,
        caption_aspect_ratio: str | None = None,
        sampler: str = "block-jacobi",
        block_size: int = 64,
        tolerance: float = 1e-2,
    ):
        """
        Args:
            vae, text_encoder, tokenizer, flow, denoiser: the models; without a denoiser one step of the flow's own
                score denoises.
            noise_std: noise level of the latents that the flow was trained on.
            num_frames, fps, height, width: of the videos that it was trained on, and makes by default.
            guidance_scale: the default guidance.
            max_text_tokens: `M`; captions are padded and truncated to it.
            later_frame_scale: see `VideoCodec`.
            caption_has_fps, caption_has_noise_level, caption_aspect_ratio: what is written around captions, see
                `wrap_caption`.
            sampler, block_size, tolerance: the default solver, see `starflow.sampling.solvers`.
        """
        super().__init__()
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
            caption_aspect_ratio=caption_aspect_ratio,
            sampler=sampler,
            block_size=block_size,
            tolerance=tolerance,
        )
        self.codec = VideoCodec(vae, later_frame_scale)
        self.video_processor = VideoProcessor(vae_scale_factor=self.codec.spatial_factor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "StarFlowPipeline":
        """Load a bundled model by name (`toyworld`), a folder, or a hub id; in float32 unless `dtype` says else.

        Raises:
            StarflowError: there is no such model, a file of it is damaged, or a weight is not finite.
        """
        path = resolve_model(str(pretrained_model_name_or_path))
        if "torch_dtype" not in kwargs:  # diffusers' older name of it
            kwargs.setdefault("dtype", torch.float32)
        try:
            pipeline = super().from_pretrained(path, **kwargs)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StarflowError(f"cannot load the model {pretrained_model_name_or_path}: {reason}") from error
        for name, module in pipeline.components.items():
            if isinstance(module, torch.nn.Module):
                _require_finite_weights(name, module)
        return pipeline

    # --- the stages --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str], fps: float) -> Tensor:
        """Captions, wrapped as the model was trained, → `(B, M, width)`. `fps` 0 is an image."""
        config = self.config
        wrapped = [
            wrap_caption(
                prompt,
                fps=fps if config.caption_has_fps else None,
                noise_std=config.noise_std if config.caption_has_noise_level else None,
                aspect_ratio=config.caption_aspect_ratio,
            )
            for prompt in prompts
        ]
        return encode_text(self.tokenizer, self.text_encoder, wrapped, config.max_text_tokens)

    def denoise(self, latents: Tensor, text: Tensor) -> Tensor:
        """Latents `(B, T, D, H, W)` at noise level `noise_std` → clean ones: by the denoiser, or by one score step."""
        if self.denoiser is None:
            return score_step(self.flow, latents, text, self.config.noise_std)
        with torch.no_grad():
            return tweedie_step(latents, self.denoiser(latents, text), self.config.noise_std)

    def latent_shape(self, batch_size: int, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """`(B, T, D, H, W)` of the latents of such videos.

        Raises:
            UsageError: a number of frames or a size that the VAE cannot make.
        """
        factor = self.codec.spatial_factor
        if height % factor or width % factor or height < factor or width < factor:
            raise UsageError(f"{width}×{height} is not made of squares of {factor} pixels, as this model's VAE needs")
        num_latent_frames = self.codec.num_latent_frames(num_frames)
        return batch_size, num_latent_frames, self.codec.latent_channels, height // factor, width // factor

    def solver(self, sampler: str | None = None, tolerance: float | None = None) -> Solver:
        """How blocks are inverted: what is not given is the model's default."""
        return solver_named(
            sampler or self.config.sampler,
            tolerance=self.config.tolerance if tolerance is None else tolerance,
            block_size=self.config.block_size,
        )

    # --- all of it ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        sampler: str | None = None,
        tolerance: float | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> StarFlowOutput:
        """Make one video for each prompt.

        Args:
            prompt: a caption, or several.
            num_frames, height, width, fps: of the video; the model's own by default. `num_frames` is 1 for an image,
                else one more than a multiple of the VAE's temporal factor.
            guidance_scale: strength of classifier-free guidance, 0 for none.
            generator: the source of the noise (one for all prompts, or one for each); the same seed, the same video.
            latents: the noise itself, `(B, T, D, H, W)`, instead of `generator`.
            sampler, tolerance: `sequential` or `block-jacobi`, and the largest residual it may leave, in units of the
                prior.
            output_type: `pil` (a list of lists of images), `np` `(B, F, height, width, 3)` or `pt`
                `(B, F, 3, height, width)` in [0, 1], or `latent` `(B, T, D, H, W)`, denoised.
            callback_on_step_end: called as `(pipeline, frame, frame, {"latents": u})` when the deep block has finished
                a latent frame, `u` `(B, 1, H, W, D)`.

        Raises:
            UsageError: an empty prompt, a number of frames or a size that the VAE cannot make, an unknown output type.
            StarflowError: NaN in what was sampled.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        _check_call(prompts, output_type, guidance_scale)
        num_frames = self.config.num_frames if num_frames is None else num_frames
        height = self.config.height if height is None else height
        width = self.config.width if width is None else width
        fps = self.config.fps if fps is None else fps
        guidance_scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        shape = self.latent_shape(len(prompts), num_frames, height, width)
        device = self._execution_device

        caption_fps = fps if num_frames > 1 else 0
        text = self.encode_prompt(prompts, caption_fps)
        null_text = self.encode_prompt([""], caption_fps).expand_as(text) if guidance_scale else None
        noise = randn_tensor(shape, generator, device, torch.float32) if latents is None else latents.to(device)
        if tuple(noise.shape) != shape:
            raise UsageError(f"the noise must have the shape {shape}, not {tuple(noise.shape)}")

        with self.progress_bar(total=2 * shape[1] + 2) as bar:
            bar.set_description("deep block")

            def on_frame(index: int, u: Tensor) -> None:
                bar.update()
                if index == shape[1] - 1:
                    bar.set_description("shallow blocks")
                if callback_on_step_end is not None:
                    callback_on_step_end(self, index, index, {"latents": u})

            solver = self.solver(sampler, tolerance)
            x, report = sample(self.flow, noise, text, null_text, guidance_scale, solver=solver, on_frame=on_frame)
            bar.update()
            bar.set_description("denoiser")
            x = require_finite(self.denoise(x, text), "the denoised video")
            bar.update()
            bar.set_description("decoding")
            frames = x if output_type == "latent" else self._decode(x, output_type, bar.update)
        self.maybe_free_model_hooks()
        return StarFlowOutput(frames=frames, report=report)

    def _decode(self, x: Tensor, output_type: str, on_frame: Callable[[], Any]) -> Any:
        """Clean latents `(B, T, D, H, W)` → what `output_type` asks for; `on_frame` is called for each latent frame."""
        pieces = []
        for piece in self.codec.stream_decode([x]):
            pieces.append(piece)
            on_frame()
        video = require_finite(torch.cat(pieces, dim=1), "the decoded video")
        return self.video_processor.postprocess_video(video.transpose(1, 2), output_type=output_type)


def score_step(flow: StarFlow, x: Tensor, text: Tensor, noise_std: float) -> Tensor:
    """Denoise `x` `(B, T, D, H, W)` by one step along the flow's own score: `x - noise_std² · ∇(-log p(x))`."""
    with torch.enable_grad():
        noisy = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(flow_loss(flow.encode(noisy, text)), noisy)
    return tweedie_step(x, score_prediction(grad, noise_std), noise_std)


def _check_call(prompts: Sequence[str], output_type: str, guidance_scale: float | None) -> None:
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise UsageError('the prompt is empty: say what is to be seen, such as "a red circle moves right"')
    if output_type not in OUTPUT_TYPES:
        raise UsageError(f"unknown output type {output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
    if guidance_scale is not None and guidance_scale < 0:
        raise UsageError(f"the guidance scale must be 0 (none) or more, not {guidance_scale}")


def _require_finite_weights(name: str, module: torch.nn.Module) -> None:
    for key, parameter in module.named_parameters():
        if parameter.is_meta:
            raise StarflowError(f"the weight {key} of the model's {name} is missing: the model is damaged")
        if not torch.isfinite(parameter).all():
            raise StarflowError(f"the weight {key} of the model's {name} is not finite: the model is damaged")
