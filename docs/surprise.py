"""Makes docs/surprise.png, the picture of surprise in the README, with the bundled model: `python docs/surprise.py`."""

from pathlib import Path

import numpy as np

from starflow import StarFlowPipeline, log_likelihood
from starflow.likelihood.heatmap import write_plot
from starflow.toyworld.world.captions import caption
from starflow.toyworld.world.violations import plant


def main() -> None:
    pipeline = StarFlowPipeline.from_pretrained("toyworld")
    rng = np.random.default_rng([0, 3, 0])
    planted = plant("jump", rng, "test")
    prompt = caption(planted.scene, rng, "test")
    (likelihood,) = log_likelihood(pipeline, planted.frames, [prompt], noise_samples=4)
    picture, factor = Path(__file__).with_suffix(".png"), pipeline.codec.temporal_factor
    title = f"“{prompt}”, which jumps at {planted.frame / 8:.2f} s"
    write_plot(picture, planted.frames, 8, likelihood.surprise.numpy(), factor, title)


if __name__ == "__main__":
    main()
