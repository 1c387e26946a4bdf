"""Makes docs/tasks.png, the picture of all tasks in the README, with the bundled model: `python docs/tasks.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from starflow import StarFlowPipeline
from starflow.media.video import contact_sheet
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, SceneObject

PICTURE = Path(__file__).parent / "tasks.png"


def main() -> None:
    pipeline = StarFlowPipeline.from_pretrained("toyworld")
    pipeline.set_progress_bar_config(disable=True)

    def make(prompt: str, **given: Any) -> NDArray[np.uint8]:
        generator = torch.Generator().manual_seed(0)
        frames = pipeline(prompt, generator=generator, output_type="np", **given).frames[0]
        return (frames * 255).round().astype(np.uint8)

    square = SceneObject("red", "square", "large", "right", x=14, y=32, radius=10, rate=2)
    source = render(Scene((square,), "black"))
    prompt, instruction = "a large red square moves right", "make the square blue"
    rows = {
        f"given: a rendered clip, “{prompt}”": source,
        f"--image its first frame: “{prompt}”": make(prompt, image=source[0]),
        "--image its first frame: “a large red square moves down”": make(
            "a large red square moves down", image=source[0]
        ),
        f"--video the clip: “{instruction}”": make(instruction, video=source),
        "--video the clip: “turn the square into a triangle”": make("turn the square into a triangle", video=source),
        f"--extend the clip to 33 frames: “{prompt}”": make(prompt, extend=source, num_frames=33),
        f"--last-image its last frame: “{prompt}”": make(prompt, last_image=source[-1]),
        "--seconds 10: “a large green circle orbits”": make("a large green circle orbits", num_frames=81),
    }
    contact_sheet(list(rows.values()), PICTURE, labels=list(rows))


if __name__ == "__main__":
    main()
