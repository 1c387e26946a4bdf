"""What a frame loses if it is denoised without the denoiser's look-ahead, as in a session.

    python benchmarks/lookahead.py [--model toyworld] [--num-clips 32]

Prints, over held-out clips of toyworld, the root mean square error of the latents with the frames of the look-ahead and
without them, and the PSNR of the decoded frames. The first latent frame is left out: it is the same in both.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import harness
from starflow.flow.denoiser import tweedie
from starflow.flow.loss import add_noise
from starflow.media.frames import psnr, to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.source import Toyworld


@torch.no_grad()
def denoise(pipeline: StarFlowPipeline, noisy: Tensor, text: Tensor) -> Tensor:
    """Clean latents `(B, T, D, H, W)`, with the look-ahead."""
    assert pipeline.denoiser is not None
    return tweedie(noisy, pipeline.denoiser(noisy, text), pipeline.config.noise_std)


def without_lookahead(pipeline: StarFlowPipeline, noisy: Tensor, text: Tensor) -> Tensor:
    """The same, but each frame as the last of a video that ends there."""
    ends = range(1, noisy.shape[1] + 1)
    return torch.cat([denoise(pipeline, noisy[:, :end], text)[:, -1:] for end in ends], dim=1)


def main(args: Sequence[str] | None = None) -> None:
    """Print a line for each way to denoise."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-clips", type=harness.positive, default=32)
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model)
    source = Toyworld(arguments.num_clips, seed=1000003, split="test")
    clips = [source[index] for index in range(len(source))]
    video = to_tensor(np.stack([clip.video[: pipeline.config.num_frames] for clip in clips]))
    clean = pipeline.codec.encode(video)
    noisy = add_noise(clean, pipeline.config.noise_std, torch.Generator().manual_seed(0))
    text = pipeline.encode_prompt([clip.captions[0] for clip in clips], pipeline.config.fps)
    for name, way in (("with the look-ahead", denoise), ("without it", without_lookahead)):
        latents = way(pipeline, noisy, text)
        error = (latents - clean)[:, 1:].square().mean().sqrt()
        quality = psnr(pipeline.codec.decode(latents)[:, 1:], video[:, 1:]).mean()
        print(f"{name:20} error of latents {error:.4f}, PSNR of frames {quality:.2f} dB")


if __name__ == "__main__":
    harness.run(main)
