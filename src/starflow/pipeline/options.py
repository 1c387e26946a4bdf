"""The options of generation. The pipeline and the command line both use these declarations.

This module loads without torch, so that `starflow generate --help` is fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from math import inf
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from starflow.errors import UsageError, nearest_name
from starflow.sampling.names import ON_UNCONVERGED, SAMPLERS

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

    from starflow.pipeline.pictures import Picture, VideoClip


def option(
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] | None = None,
    default: str = "the model's",
) -> Any:
    """A field of `Options`, None by default: its help, the values that it may have, and its default in words."""
    about = {
        "help": help,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "choices": choices,
        "default": default,
    }
    return field(default=None, metadata=about)


# Arguments of diffusers' pipelines that have no meaning here, and what to use.
FOREIGN = {
    "num_inference_steps": "a flow has no denoising steps; use tolerance, which trades time for exactness",
    "timesteps": "a flow has no denoising steps; use tolerance",
    "sigmas": "a flow has no denoising steps; use tolerance",
    "eta": "a flow has no scheduler; the noise is all its randomness",
    "guidance_rescale": "use guidance_scale alone",
    "negative_prompt": "guidance is against the empty caption; say in the prompt what the video shows",
    "negative_prompt_embeds": "guidance is against the empty caption; say in the prompt what the video shows",
    "prompt_embeds": "give the prompt as text; `plan` and `encode_prompt` give the encodings",
    "prompt_attention_mask": "give the prompt as text; it is padded as in training",
    "max_sequence_length": "the length is that of training, the setting max_text_tokens",
    "strength": "an edit with video= starts from noise; say in the prompt what changes",
    "num_images_per_prompt": "use num_videos_per_prompt",
    "frame_rate": "use fps",
    "seed": "use generator=torch.Generator().manual_seed(seed)",
    "init_image": "use image",
    "callback": "use callback_on_step_end",
    "callback_steps": "use callback_on_step_end, which is called for every latent frame",
    "cross_attention_kwargs": "a flow takes no arguments for its attention",
    "attention_kwargs": "a flow takes no arguments for its attention",
}


@dataclass(frozen=True)
class Options:
    """The options of a video. None is the model's default.

    Pictures and clips are paths, PIL images, arrays, tensors, or `frames` of an output (`starflow.pipeline.pictures`).
    They are scaled and cropped to the video's size. With several prompts, give a list with one for each.

    Raises:
        UsageError: a value that an option cannot have.
    """

    num_frames: int | None = option("Frames of the video; 1 is an image.", minimum=1)
    height: int | None = option("Height of the video in pixels.", minimum=1)
    width: int | None = option("Width of the video in pixels.", minimum=1)
    fps: float | None = option("Frames per second.", above=0)
    guidance_scale: float | None = option(
        "Strength of guidance by the caption; 1 is none, as in diffusers.", minimum=0, maximum=100
    )
    generator: "torch.Generator | list[torch.Generator] | None" = option(
        "Random generator of the noise, one for all prompts or one for each; the same seed gives the same video."
    )
    latents: "torch.Tensor | None" = option(
        "The noise (B, T, D, H, W), instead of a generator; also for given frames that are not shown."
    )
    num_videos_per_prompt: int | None = option("Videos of each prompt.", minimum=1, default="1")
    sampler: str | None = option(
        "How the flow is inverted: sliding, a window of tokens at once, within the tolerance (fastest); block-jacobi, "
        "blocks of tokens at once, within the tolerance; sequential, token by token, exact; published, "
        "the released rule, which measures no residual and certifies nothing, for comparison.",
        choices=SAMPLERS,
    )
    tolerance: float | None = option(
        "The largest residual: the video is the exact sample of a noise that differs from the drawn one by at most "
        "this much (the noise has a standard deviation of 1). A smaller tolerance takes longer.",
        above=0,
    )
    max_sweeps: int | None = option(
        "The most evaluations of a token by sliding.", minimum=1, default="until it has converged"
    )
    on_unconverged: str | None = option(
        "What sliding does if max_sweeps is not enough.", choices=ON_UNCONVERGED, default="warn"
    )
    context: int | None = option(
        "Latent frames that the rolling window of a long video keeps when it moves on.",
        minimum=1,
        default="three quarters of the window",
    )
    image: "Picture | Sequence[Picture] | None" = option("The first frame.")
    last_image: "Picture | Sequence[Picture] | None" = option("The last frame.")
    video: "VideoClip | Sequence[VideoClip] | None" = option("A clip to edit; the prompt is the instruction.")
    extend: "VideoClip | Sequence[VideoClip] | None" = option("A clip to continue; num_frames counts it too.")

    actions: "ArrayLike | None" = option(
        "What the player does: an action (F, A) for each frame, or (B, F, A). That of a frame led to it; that of the "
        "first frame is ignored. They set num_frames.",
        default="none",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                _check_type(each, value)
                _check(each.name, value, each.metadata)

    @classmethod
    def parse(cls, asked: Mapping[str, Any]) -> "Options":
        """The options of a call. Raises TypeError for an unknown name; it says what to use instead."""
        known = {each.name for each in fields(cls)}
        for name in asked:
            if name not in known:
                close = nearest_name(name, known)
                hint = FOREIGN.get(name) or (
                    f"did you mean {close}?" if close else f"choose {', '.join(sorted(known))}"
                )
                raise TypeError(f"the pipeline has no option {name}: {hint}")
        return cls(**asked)

    def with_defaults(self, settings: Mapping[str, Any]) -> "Options":
        """The same options, with a model's settings instead of None.

        `num_frames` stays None, because its default depends on the given pictures and clips.
        """
        names = ("height", "width", "fps", "guidance_scale", "sampler", "tolerance")
        return replace(self, **{name: settings[name] for name in names if getattr(self, name) is None})


def _check_type(each: Field[Any], value: Any) -> None:
    if each.type == int | None and not isinstance(value, Integral):
        raise UsageError(f"{each.name} must be a whole number, not {value!r}")
    if each.type == float | None and not isinstance(value, Real):
        raise UsageError(f"{each.name} must be a number, not {value!r}")


def _check(name: str, value: Any, allowed: Mapping[str, Any]) -> None:
    minimum, above, maximum, choices = (allowed[key] for key in ("minimum", "above", "maximum", "choices"))
    if maximum is not None and maximum < value < inf:
        raise UsageError(f"{name} must be at most {maximum}, not {value}")
    if minimum is not None and not minimum <= value < inf:
        raise UsageError(f"{name} must be {minimum} or more, not {value}")
    if above is not None and not above < value < inf:
        raise UsageError(f"{name} must be above {above}, not {value}")
    if choices is not None and value not in choices:
        raise UsageError(f"unknown {name} {value!r}: choose {', '.join(choices)}")
