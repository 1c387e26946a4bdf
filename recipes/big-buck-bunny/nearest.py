"""How much of what a model makes is memory: generated frames beside the most similar frames of its training.

    python recipes/big-buck-bunny/nearest.py GENERATED TRAIN TEST OUT

finds the most similar training frame, by PSNR, of frames of the clips in the folder GENERATED. It does the same for the
held-out clips in TEST, which the model cannot have learnt by heart. A frame that was copied is as near to a training
frame as reconstructions are to their originals. Writes OUT/nearest.json and OUT/nearest.png: generated frames in the
upper row, the nearest training frames below.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starflow.media.files import atomic_write
from starflow.media.video import read_video

FRAMES_OF_A_CLIP = 5
SHOWN = 10


def frames_of(folder: Path, fps: float, most: int | None = None) -> Tensor:
    """Frames of all clips in a folder at about `fps`, `(N, height, width, 3)`; of each clip at most `most`, spread."""
    frames = []
    for file in sorted(folder.glob("*.mp4")):
        video, own = read_video(file)
        video = video[:: max(1, round(own / fps))]
        places = np.linspace(0, len(video) - 1, min(most or len(video), len(video))).round().astype(int)
        frames.append(torch.from_numpy(video[places]))
    return torch.cat(frames)


def nearest(frames: Tensor, training: Tensor) -> tuple[NDArray, NDArray]:
    """The PSNR in dB of each frame and its most similar training frame, and the index of that one."""
    pixels = training.flatten(1).float() / 255
    energies = pixels.square().sum(1)
    errors, places = [], []
    for frame in frames.flatten(1).float() / 255:
        error, place = (energies - 2 * pixels @ frame + frame.square().sum()).min(0)
        errors.append(error.item() / frame.numel())
        places.append(place.item())
    return -10 * np.log10(np.maximum(errors, 1e-9)), np.array(places)


def main() -> None:
    """Compare, and write the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("generated", "train", "test", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--fps", type=float, default=12, help="the rate of the generated clips (default: 12)")
    arguments = parser.parse_args()
    training = frames_of(arguments.train, arguments.fps)
    generated = frames_of(arguments.generated, arguments.fps, FRAMES_OF_A_CLIP)
    figures = {"training_frames": len(training)}
    made, places = nearest(generated, training)
    for name, psnr in (
        ("generated", made),
        ("held_out", nearest(frames_of(arguments.test, arguments.fps, FRAMES_OF_A_CLIP), training)[0]),
    ):
        quartiles = np.percentile(psnr, [25, 50, 75]).round(2).tolist()
        figures[name] = {"frames": len(psnr), "psnr_quartiles": quartiles}
    arguments.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.out / "nearest.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    shown = np.linspace(0, len(generated) - 1, min(SHOWN, len(generated))).round().astype(int)
    rows = [
        np.concatenate(list(frames), axis=1) for frames in (generated[shown].numpy(), training[places[shown]].numpy())
    ]
    with atomic_write(arguments.out / "nearest.png") as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="png")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
