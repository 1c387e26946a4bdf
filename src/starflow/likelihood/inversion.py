"""A clip as noise, and back: what the flow makes of a clip under a caption, kept in a file.

    encode    clip → latents x → x + noise_std·ε → flow → z
    decode    z → the same noised latents, to float precision → denoiser → VAE → clip

Under another caption the same noise becomes another clip.

Legend: `F` video frames, `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from dataclasses import asdict, dataclass
from json import dumps, loads
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from starflow.errors import StarflowError, UsageError
from starflow.flow.loss import add_noise
from starflow.likelihood.score import caption_fps
from starflow.media.files import atomic_write
from starflow.pipeline.inputs import encode_clips
from starflow.pipeline.pipeline import StarFlowOutput, StarFlowPipeline
from starflow.sampling.solvers import require_finite

FORMAT = "starflow noise"
# In units of the noise: about what float32 can resolve.
DECODE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ClipNoise:
    """The noise of a clip, and what it takes to get the clip back.

    Attributes:
        z: `(T, D, H, W)`, about standard normal if the model knows such clips.
        prompt: the caption.
        fps: the clip's frame rate.
        num_frames, height, width: of the clip.
        noise_seed, noise_std: of the noise ε that was added to its latents.
    """

    z: Tensor
    prompt: str
    fps: float
    num_frames: int
    height: int
    width: int
    noise_seed: int
    noise_std: float


@torch.no_grad()
def encode_clip(pipeline: StarFlowPipeline, clip: NDArray[np.uint8], prompt: str, *, seed: int = 0) -> ClipNoise:
    """The noise that a clip `(F, height, width, 3)`, RGB, at the model's frame rate, is made from under a caption.

    Raises:
        UsageError: a clip that the VAE cannot take. StarflowError: the noise is not finite.
    """
    num_frames, height, width = clip.shape[:3]
    latents = encode_clips(pipeline.codec, [clip], (height, width)).to(pipeline.flow.device)
    text = pipeline.encode_prompt([prompt], caption_fps(pipeline, latents))
    noise_std = pipeline.config.noise_std
    generator = torch.Generator().manual_seed(seed)
    x = add_noise(latents, noise_std, generator)
    z = require_finite(pipeline.flow.encode(x, text).z[0].cpu(), "the noise of the clip")
    return ClipNoise(z, prompt, pipeline.config.fps, num_frames, height, width, seed, noise_std)


def decode_clip(
    pipeline: StarFlowPipeline, noise: ClipNoise, prompt: str | None = None, output_type: str = "np"
) -> StarFlowOutput:
    """The clip that noise becomes, under its own caption or another; see `StarFlowPipeline.__call__`.

    Raises:
        UsageError: the noise is of latents that this model does not have. StarflowError: NaN in what was decoded.
    """
    num_frames, height, width = noise.num_frames, noise.height, noise.width
    shape = pipeline.codec.latent_shape(1, num_frames, height, width)
    if (1, *noise.z.shape) != shape:
        raise UsageError(
            f"the noise {tuple(noise.z.shape)} is another model's: this one's is {shape[1:]} for such clips"
        )
    return pipeline(
        noise.prompt if prompt is None else prompt,
        latents=noise.z[None],
        num_frames=num_frames,
        height=height,
        width=width,
        fps=noise.fps,
        guidance_scale=0,  # guided, the map is not the one that the clip was encoded with
        tolerance=DECODE_TOLERANCE,
        output_type=output_type,
    )


def save_noise(noise: ClipNoise, path: str | PathLike[str]) -> None:
    """Write a safetensors file: the tensor `z`, everything else as its metadata."""
    fields = asdict(noise)
    z = fields.pop("z").contiguous()
    metadata = {"format": FORMAT} | {name: dumps(value) for name, value in fields.items()}
    with atomic_write(path) as temporary:
        save_file({"z": z}, temporary, metadata)


def load_noise(path: str | PathLike[str]) -> ClipNoise:
    """Read what `save_noise` wrote.

    Raises:
        StarflowError: there is no such file, or it holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise StarflowError(f"{path} holds no noise of a clip: make it with `starflow encode`")
            z = file.get_tensor("z")
        fields: dict[str, Any] = {name: loads(value) for name, value in metadata.items() if name != "format"}
        noise = ClipNoise(z=z, **fields)
    except FileNotFoundError:
        raise StarflowError(f"no such file: {path}") from None
    except (SafetensorError, TypeError, ValueError) as error:
        raise StarflowError(f"cannot read {path}: it is damaged, or no file of `starflow encode`") from error
    require_finite(noise.z, f"the noise in {path}")
    return noise
