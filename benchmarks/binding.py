"""Does the flow know which attribute belongs to which object? Swaps them in the captions of clips of two objects.

    python benchmarks/binding.py [--model toyworld] [--num-clips 120]

Prints for each attribute by how many nats the swapped caption makes a clip less likely, on average, in all and for
each latent frame; and the share of clips for which the true caption is the likelier one (chance: one half). Clips are
from the training split and captions are canonical: this measures what the flow has learnt, not how it generalises.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import harness
from starflow.flow.loss import add_noise, negative_log_likelihood
from starflow.media.frames import to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.world.captions import canonical, describe_scene
from starflow.toyworld.world.grammar import Description
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, sample_scene

SWAPPED = ("color", "shape", "motion")


def scenes(num_clips: int) -> list[Scene]:
    """Scenes of two objects that differ in every attribute of `SWAPPED`, the left one first."""
    rng = np.random.default_rng(0)
    found: list[Scene] = []
    while len(found) < num_clips:
        one, other = sorted(sample_scene(rng, split="train", num_objects=2).objects, key=lambda item: item.x)
        if all(getattr(one, name) != getattr(other, name) for name in SWAPPED):
            found.append(Scene((one, other), "black"))
    return found


def swap(description: Description, name: str) -> Description:
    """The description after its two objects have exchanged the attribute `name`."""
    one, other = description.objects
    values = {name: getattr(other, name)}, {name: getattr(one, name)}
    return replace(description, objects=(replace(one, **values[0]), replace(other, **values[1])))


def surprise(pipeline: StarFlowPipeline, latents: Tensor, descriptions: list[Description]) -> Tensor:
    """`-log p` `(B, T)` of noised latents `(B, T, D, H, W)` given their canonical captions, in nats."""
    captions = [canonical(description) for description in descriptions]
    with torch.no_grad():
        encoded = pipeline.flow.encode(latents, pipeline.encode_prompt(captions, pipeline.config.fps))
    return negative_log_likelihood(encoded).sum(dim=(2, 3, 4))


def main(args: Sequence[str] | None = None) -> None:
    """Print a line for each attribute."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-clips", type=int, default=120)
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model)
    shown = scenes(arguments.num_clips)
    clean = pipeline.codec.encode(to_tensor(np.stack([render(scene) for scene in shown])))
    latents = add_noise(clean, pipeline.config.noise_std, torch.Generator().manual_seed(0))
    said = [replace(describe_scene(scene), background=None) for scene in shown]
    truth = surprise(pipeline, latents, said)
    for name in SWAPPED:
        loss = surprise(pipeline, latents, [swap(description, name) for description in said]) - truth
        right = (loss.sum(dim=1) > 0).float().mean()
        frames = " ".join(f"{value:5.2f}" for value in loss.mean(dim=0).tolist())
        print(f"{name:7} {loss.sum(dim=1).mean():5.2f} nats (by latent frame: {frames}), told apart: {right:.0%}")


if __name__ == "__main__":
    harness.run(main)
