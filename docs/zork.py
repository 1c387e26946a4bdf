"""The example of docs/train-on-your-clips.md: a folder of clips with a new word, and whether a model has learned it.

    python docs/zork.py make clips                                # 50 clips, each with its caption
    python docs/zork.py check --model toyworld --lora FOLDER      # the share of right videos
    python docs/zork.py picture --model FOLDER --lora FOLDER      # docs/zork.png

A zork is a purple triangle. The bundled model knows purple triangles, but not the word.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from starflow import StarFlowPipeline
from starflow.media.video import contact_sheet, write_video
from starflow.toyworld.evaluation.prompts import held_out_prompts
from starflow.toyworld.reader.checker import check
from starflow.toyworld.world.grammar import PHRASES
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, sample_object
from starflow.toyworld.world.vocabulary import BACKGROUNDS, FPS, MOTIONS

COLOR, SHAPE = "purple", "triangle"
NUM_CLIPS = 50
NUM_PROMPTS = 45
PICTURE = Path(__file__).parent / "zork.png"


def make(folder: Path) -> None:
    """Write clips of zorks with every motion that training has."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(NUM_CLIPS):
        item = sample_object(rng, "train")
        while (item.color, item.shape) != (COLOR, SHAPE):
            item = sample_object(rng, "train")
        scene = Scene((item,), BACKGROUNDS[rng.integers(len(BACKGROUNDS))])
        write_video(folder / f"{index:02d}.mp4", render(scene), FPS)
        (folder / f"{index:02d}.txt").write_text(f"a zork {PHRASES[item.motion][0]}\n")


def load(model: str, lora: str | None) -> StarFlowPipeline:
    """A model, with an adapter or without."""
    pipeline = StarFlowPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
        pipeline.fuse_lora()
    return pipeline


def measure(model: str, lora: str | None) -> None:
    """Print the share of videos that are right, of captions with the word and of held-out captions without it."""
    pipeline = load(model, lora)
    motions = [PHRASES[motion][0] for motion in MOTIONS]
    zorks = {f"a zork {motion}": f"a {COLOR} {SHAPE} {motion}" for motion in motions}
    prompts = [pair for _ in range(NUM_PROMPTS // len(motions)) for pair in zorks.items()]
    others = [(prompt.caption, prompt.caption) for prompt in held_out_prompts(0, NUM_PROMPTS, num_objects=1)]
    for name, pairs in (("captions with the word", prompts), ("held-out captions without it", others)):
        right = [check(video(pipeline, said, seed), meant).all_correct for seed, (said, meant) in enumerate(pairs)]
        print(f"{name}: {sum(right)} of {len(right)} videos are right")


def draw(model: str, lora: str) -> None:
    """Write a picture of the same caption and noise with the bundled model, the adapter, and a fine-tuned model."""
    prompt = "a zork moves right"
    models = {
        "the bundled model": ("toyworld", None),
        "with the LoRA": ("toyworld", lora),
        "fine-tuned": (model, None),
    }
    rows = [video(load(*names), prompt, seed=0) for names in models.values()]
    contact_sheet(rows, PICTURE, labels=[f"{name}: “{prompt}”" for name in models])


def video(pipeline: StarFlowPipeline, prompt: str, seed: int) -> np.ndarray:
    """The frames of a video, uint8."""
    generator = torch.Generator().manual_seed(seed)
    frames = pipeline(prompt, generator=generator, output_type="np").frames[0]
    return (frames * 255).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("folder", type=Path)
    for name in ("check", "picture"):
        command = commands.add_parser(name)
        command.add_argument("--model", default="toyworld")
        command.add_argument("--lora", required=name == "picture")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.folder)
    else:
        (measure if arguments.command == "check" else draw)(arguments.model, arguments.lora)


if __name__ == "__main__":
    main()
