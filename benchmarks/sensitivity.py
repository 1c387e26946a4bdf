"""How far two long clips drift apart if their noise differs by a millionth. Both are sampled exactly.

    python benchmarks/sensitivity.py [--num-frames 81] [--nudge 1e-6] [-o sensitivity.json]

Prints the largest difference of their latents in each latent frame, with and without guidance. For any sampler, a
difference from sequential sampling below this is not meaningful: see docs/sampling.md.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import harness
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import sample


def latents(pipeline: StarFlowPipeline, noise: Tensor, num_frames: int, guidance_scale: float) -> Tensor:
    """Latents `(B, T, D, H, W)` at the noise level of training, one clip for each prompt."""
    plan = pipeline.plan(
        list(harness.PROMPTS), num_frames=num_frames, latents=noise, guidance_scale=guidance_scale, sampler="sequential"
    )
    return torch.cat(list(sample(pipeline.flow, plan.sampling)), dim=1)


def main(args: Sequence[str] | None = None) -> None:
    """Print, for each latent frame, the largest difference of any latent."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-frames", type=int, default=81)
    parser.add_argument("--nudge", type=float, default=1e-6)
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model)
    generator = torch.Generator().manual_seed(0)
    noise = pipeline.plan(list(harness.PROMPTS), num_frames=arguments.num_frames, generator=generator).sampling.noise
    nudged = noise + arguments.nudge * torch.randn(noise.shape, generator=generator)
    rows = []
    for guidance_scale in (pipeline.config.guidance_scale, 1.0):
        one, other = (latents(pipeline, each, arguments.num_frames, guidance_scale) for each in (noise, nudged))
        differences = (one - other).abs().amax(dim=(0, 2, 3, 4)).tolist()
        rows.append({"guidance_scale": guidance_scale, "largest_difference": differences})
        print(f"guidance {guidance_scale:g}: " + " ".join(f"{value:.0e}" for value in differences), flush=True)
    if arguments.output is not None:
        harness.write_results(arguments.output, pipeline.device, model=arguments.model, rows=rows)


if __name__ == "__main__":
    harness.run(main)
