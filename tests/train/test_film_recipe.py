"""The recipe of a real film: its shots, how they are cut, its configs, and the search for copied frames."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from starflow.config import load_config
from starflow.data.folder import ClipFolder
from starflow.media.video import write_video
from starflow.train.config import FlowTrainConfig, VAETrainConfig

RECIPE = Path(__file__).parents[2] / "recipes" / "big-buck-bunny"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shots_are_in_the_order_of_the_film_and_do_not_overlap():
    shots = [json.loads(line) for line in (RECIPE / "shots.jsonl").read_text().splitlines()]
    assert [shot["shot"] for shot in shots] == list(range(1, 126))
    ends = [0, *(shot["end_frame"] for shot in shots)]
    assert all(end <= shot["start_frame"] < shot["end_frame"] for end, shot in zip(ends, shots, strict=False))
    assert sum(shot["split"] == "test" for shot in shots) == 19
    assert all(shot["caption"] for shot in shots)


def test_a_film_is_cut_at_the_frames_of_the_shots(tmp_path: Path):
    film = np.zeros((20, 72, 128, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None] * 10
    write_video(tmp_path / "film.mp4", film, 24)
    shots = [
        {"shot": 1, "start_frame": 2, "end_frame": 6, "caption": "dark", "split": "train"},
        {"shot": 2, "start_frame": 9, "end_frame": 20, "caption": "bright", "split": "test"},
    ]
    script("film").cut(tmp_path / "film.mp4", shots, tmp_path)
    for split, caption, numbers in (("train", "dark", range(2, 6)), ("test", "bright", range(9, 20))):
        (clip,) = list(ClipFolder(str(tmp_path / split)))
        assert clip.captions == [caption]
        assert clip.video.shape[1:] == (64, 112, 3)
        np.testing.assert_allclose(clip.video.mean((1, 2, 3)) / 10, list(numbers), atol=0.4)


def test_the_configs_fit_together():
    vae, flow = load_config(VAETrainConfig, RECIPE / "vae.yaml"), load_config(FlowTrainConfig, RECIPE / "flow.yaml")
    assert sum(phase.num_steps for phase in vae.phases) == vae.loop.num_steps
    size = flow.pipeline.height, flow.pipeline.width, flow.pipeline.fps
    assert size == (vae.height, vae.width, vae.fps) == (*script("film").SIZE, 12)
    assert flow.vae == f"{vae.output}/final"
    assert flow.data == vae.data


def test_copied_frames_are_found():
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(0, 256, (30, 8, 8, 3), generator=generator, dtype=torch.uint8)
    new = torch.randint(0, 256, (4, 8, 8, 3), generator=generator, dtype=torch.uint8)
    frames = torch.cat([training[[7, 21]], new])
    psnr, places = script("nearest").nearest(frames, training)
    assert places[:2].tolist() == [7, 21]
    assert psnr[:2].min() > 50 > 12 > psnr[2:].max()
