"""Map a clip to noise under a caption and back, and store the noise in a file.

    encode    clip → latents x → x + noise_std·ε → flow → z
    decode    z → the same noised latents, to float precision → denoiser → VAE → clip

Under another caption, the same noise gives another clip.

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
# Residual in units of the noise: about what float32 can resolve.
DECODE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ClipNoise:
    """The noise of a clip, and the settings to decode it.

    Attributes:
        z: `(T, D, H, W)`, about standard normal if the clip is like those of training.
        prompt: the caption.
        fps: the clip's frame rate.
        num_frames, height, width: the size of the clip.
        noise_seed, noise_std: of the noise ε that was added to the latents.
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
    """Map a clip `(F, height, width, 3)`, RGB, at the model's frame rate, to its noise under a caption.

    Raises:
        UsageError: the VAE cannot encode a clip of this size or length.
        StarflowError: the noise is not finite.
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
    """Decode noise to a clip, under its own caption or `prompt`; see `StarFlowPipeline.__call__`.

    Raises:
        UsageError: the noise has the wrong shape for this model.
        StarflowError: the decoded clip has NaN.
    """
    num_frames, height, width = noise.num_frames, noise.height, noise.width
    shape = pipeline.codec.latent_shape(1, num_frames, height, width)
    if (1, *noise.z.shape) != shape:
        raise UsageError(
            f"the noise has shape {tuple(noise.z.shape)}, this model needs {shape[1:]}: use the model that encoded it"
        )
    return pipeline(
        noise.prompt if prompt is None else prompt,
        latents=noise.z[None],
        num_frames=num_frames,
        height=height,
        width=width,
        fps=noise.fps,
        guidance_scale=1,  # the clip was encoded without guidance
        tolerance=DECODE_TOLERANCE,
        output_type=output_type,
    )


def save_noise(noise: ClipNoise, path: str | PathLike[str]) -> None:
    """Write a safetensors file: the tensor `z`, with everything else as metadata."""
    fields = asdict(noise)
    z = fields.pop("z").contiguous()
    metadata = {"format": FORMAT} | {name: dumps(value) for name, value in fields.items()}
    with atomic_write(path) as temporary:
        save_file({"z": z}, temporary, metadata)


def is_noise(path: str | PathLike[str]) -> bool:
    """Whether `load_noise` can read a file."""
    try:
        load_noise(path)
    except StarflowError:
        return False
    return True


def load_noise(path: str | PathLike[str]) -> ClipNoise:
    """Read a file of `save_noise`.

    Raises:
        StarflowError: the file is missing, damaged or of another kind, or the noise is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise StarflowError(f"{path} contains no noise of a clip: make such a file with `starflow encode`")
            z = file.get_tensor("z")
        fields: dict[str, Any] = {name: loads(value) for name, value in metadata.items() if name != "format"}
        noise = ClipNoise(z=z, **fields)
    except FileNotFoundError:
        raise StarflowError(f"no such file: {path}") from None
    except (SafetensorError, TypeError, ValueError) as error:
        raise StarflowError(f"cannot read {path}: it is damaged, or not a file of `starflow encode`") from error
    require_finite(noise.z, f"the noise in {path}")
    return noise
