"""What the run is predicted to find, from counted operations and bytes and from the memory that `info` computes.

    python benchmarks/gpu/predictions.py

writes `predictions.json`. It was made before any run, and is kept as it is, to be compared with what comes out.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import architecture_of
from stages.memory import WAYS, request_of
from stages.training import training_cost
from starflow.encoders.video import VideoCodec, WanDecoderStream
from starflow.hardware.architecture import Architecture
from starflow.hardware.memory import Request, estimate_memory
from starflow.media.files import atomic_write
from works import ASSUMED, Cost, Work, cost_of, image_works, predicted_ms, transformer_cost, video_works

PATH = Path(__file__).with_name("predictions.json")


def predict(tiny: bool) -> dict[str, Any]:
    """Rows as the stages add them, with predicted figures."""
    video, image = architecture_of("video", tiny), architecture_of("image", tiny)
    return {
        "assumed": asdict(ASSUMED),
        "works": _works(video, video_works(tiny)) + _works(image, image_works(tiny)),
        "stages": _stages(video),
        "memory": [row for way in WAYS for row in _memory(video, way, request_of(way, video.settings))],
        "images": [_image(image, batch) for batch in (1, 8)],
        "layer_bytes": 2 * sum(p.numel() for p in video.flow.deep.transformer.layers[0].parameters()),
        "training": _training(tiny),
    }


def load(tiny: bool) -> dict[str, Any]:
    """The predictions that were written down, or those of the tiny models."""
    return predict(True) if tiny else json.loads(PATH.read_text(encoding="utf-8"))


def _works(architecture: Architecture, works: Sequence[Work]) -> list[dict[str, Any]]:
    costs = [cost_of(work, architecture.flow, architecture.settings["max_text_tokens"]) for work in works]
    return [work.key | asdict(cost) | {"ms": predicted_ms(cost)} for work, cost in zip(works, costs, strict=True)]


@torch.no_grad()
def _stages(video: Architecture) -> list[dict[str, Any]]:
    settings, codec, denoiser = video.settings, VideoCodec(video.vae), video.denoiser
    assert denoiser is not None
    frames = codec.num_latent_frames(settings["num_frames"])
    grid = (settings["height"] // codec.spatial_factor, settings["width"] // codec.spatial_factor)
    tokens, config = grid[0] * grid[1], denoiser.config
    seen = settings["max_text_tokens"] + config["window"] * tokens
    frame = transformer_cost(config["num_layers"], config["width"], 1, tokens, seen)
    stream = WanDecoderStream(video.vae.to(torch.bfloat16))
    z = torch.empty(1, codec.latent_channels, 1, *grid, dtype=torch.bfloat16, device="meta")
    stream(z)
    with FlopCounterMode(display=False) as counter:
        stream(z)
    decoding = Cost(counter.get_total_flops(), 0, 0)
    return [
        {"stage": "denoising", "latent_frames": frames, "ms": frames * predicted_ms(frame)},
        {"stage": "decoding", "latent_frames": 1, "ms": predicted_ms(decoding)},
    ]


def _memory(architecture: Architecture, way: str, request: Request) -> list[dict[str, Any]]:
    estimate = estimate_memory(architecture, request)
    return [
        {"way": way, "stage": stage.name, "weights": stage.weights, "working": stage.working}
        for stage in estimate.stages
    ]


def _image(architecture: Architecture, batch: int) -> dict[str, Any]:
    settings = architecture.settings
    request = Request(settings["height"], settings["width"], 1, batch_size=batch)
    stages = estimate_memory(architecture, request).stages
    return {"batch": batch, "peak_bytes": {stage.name: stage.total for stage in stages}}


def _training(tiny: bool) -> list[dict[str, Any]]:
    width, n, counts = (128, 80, (1, 2)) if tiny else (4096, 33_646, (2, 4))
    costs = {layers: training_cost(layers, width, n) for layers in counts}
    return [{"layers": layers, "ms": predicted_ms(cost)} for layers, cost in costs.items()]


def main() -> None:
    """Write the predictions down."""
    with atomic_write(PATH) as temporary:
        temporary.write_text(json.dumps(predict(tiny=False), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
