"""Digests of the bundled model's latents, a few numbers per latent frame, to detect changes of samples.

    python tests/sample_digests.py    writes tests/sample_digests.json again

Everything is computed in float64, so that rounding differs little between machines.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import scene_at

STORED = Path(__file__).with_suffix(".json")
NUM_PROJECTIONS = 4
PROMPT = "a small red circle moves right"


def load_in_float64() -> StarFlowPipeline:
    pipeline = StarFlowPipeline.from_pretrained("toyworld", dtype=torch.float64)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def requests() -> dict[str, dict[str, Any]]:
    """A request per task, by name: the arguments of the pipeline except for the noise."""
    clip = render(scene_at(0, 0, "test"))
    return {
        "text to video": {},
        "two clips": {"prompt": [PROMPT, "a large blue square bounces"]},
        "sequential": {"sampler": "sequential", "guidance_scale": 1},
        "block-wise Jacobi": {"sampler": "block-jacobi", "guidance_scale": 2},
        "image": {"num_frames": 1},
        "long video": {"num_frames": 41},
        "image to video": {"image": clip[0]},
        "last frame": {"last_image": clip[-1], "image": clip[0]},
        "video to video": {"video": clip, "prompt": "make the background lighter"},
        "continuation": {"extend": clip},
    }


def num_noise_frames(request: dict[str, Any]) -> int:
    """Latent frames in the noise of a request, including given frames that are not part of the output."""
    if "video" in request:
        return 10
    return 9 if "extend" in request else (request.get("num_frames", 17) + 3) // 4 + ("last_image" in request)


def digest(pipeline: StarFlowPipeline, request: dict[str, Any]) -> list[list[float]]:
    """`(B·T, NUM_PROJECTIONS)`: the latents of each frame, projected onto fixed random directions."""
    arguments = {"prompt": PROMPT} | request
    batch = 1 if isinstance(arguments["prompt"], str) else len(arguments["prompt"])
    noise = torch.randn(batch, num_noise_frames(request), 24, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)  # for the noise added to given frames
    return project(pipeline(**arguments, latents=noise, generator=generator, output_type="latent").frames).tolist()


def project(latents: Tensor) -> Tensor:
    rows = latents.flatten(0, 1).flatten(1).double()
    directions = torch.randn(
        rows.shape[1], NUM_PROJECTIONS, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    return rows @ directions / rows.shape[1] ** 0.5


def main() -> None:
    pipeline = load_in_float64()
    digests = {name: digest(pipeline, request) for name, request in requests().items()}
    STORED.write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
