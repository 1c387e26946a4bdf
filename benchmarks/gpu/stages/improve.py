"""The bundled model, trained further in the time that is left. Its weights come back if held-out clips are likelier.

The clips are neither in the training of the bundled model nor in its evaluation. Whether the weights that come back are
kept is decided by `starflow evaluate toyworld`, which needs scipy, which such a machine lacks.
"""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from measure import Results, seconds
from starflow.config import load_config
from starflow.data.clip import Clip
from starflow.data.encoding import open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.flow.loss import add_noise, negative_log_likelihood
from starflow.media.files import atomic_write
from starflow.media.frames import to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.source import Toyworld
from starflow.train.config import FlowTrainConfig
from starflow.train.flow import train_flow

RECIPE = Path(__file__).parents[3] / "recipes/toyworld/flow-short.yaml"
SEED = 1001  # of the clips and of the noise
PARTS = ("flow", "denoiser", "text_encoder")
FEWEST_STEPS = 100  # the least that is worth a try
AFTER = 15  # seconds that scoring and copying the new weights may take
BATCH = 32  # held-out clips that are scored at once


@dataclass(frozen=True)
class Size:
    """How much is rendered, scored and trained; `most_steps` is None if only the time decides."""

    clips: int = 4096
    batch: int = 32
    held_out: int = 256
    trial: tuple[int, int] = (10, 40)  # steps of two runs, whose times tell those of a step and of a start
    most_steps: int | None = None


TINY = Size(clips=12, batch=2, held_out=4, trial=(1, 2), most_steps=3)


@dataclass(frozen=True)
class RenderedToyworld:
    """The clips of `source`, already rendered."""

    source: Toyworld
    clips: Sequence[Clip]

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]


def measure(results: Results, tiny: bool) -> None:
    """Score the model, train it for as long as there is time to score it again, and bring back what is better."""
    size = TINY if tiny else Size()
    source = Toyworld(size.clips, SEED, paraphrases=8, long=0.0625, edited=1.0)
    held_out = Toyworld(size.held_out, SEED, split="test", paraphrases=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            clips, test_clips = _rendered(source, pool), _rendered(held_out, pool)
        before = _nats_per_dim("toyworld", test_clips, results.device)
        _encode(folder / "latents", RenderedToyworld(source, clips), results.device)
        steps = _steps_that_fit(results, folder, source, size)
        model = _train(folder, source, steps, size.batch, results.device)
        after = _nats_per_dim(str(model), test_clips, results.device)
        difference = after - before
        results.add(
            "improvement",
            steps=steps,
            batch=size.batch,
            clips=len(test_clips),
            before=before.mean().item(),
            after=after.mean().item(),
            difference=difference.mean().item(),
            standard_error=(difference.std() / len(difference) ** 0.5).item(),
        )
        if difference.mean() < 0:
            _bring_back(model, results.path.parent)


def _rendered(source: Toyworld, pool: Executor) -> list[Clip]:
    return list(pool.map(source.__getitem__, range(len(source)), chunksize=16))


@torch.no_grad()
def _nats_per_dim(model: str, clips: Sequence[Clip], device: torch.device) -> Tensor:
    """The negative log-likelihood of each clip with its caption, by nats per dimension, at the model's noise level.

    The noise is the same for every model.
    """
    pipeline = StarFlowPipeline.from_pretrained(model).to(device)
    generator = torch.Generator().manual_seed(SEED)
    nats = []
    for batch in _batches(clips):
        latents = pipeline.codec.encode(torch.stack([to_tensor(clip.video) for clip in batch]))
        noisy = add_noise(latents, pipeline.config.noise_std, generator)
        text = pipeline.encode_prompt([clip.captions[0] for clip in batch], pipeline.config.fps)
        encoded = pipeline.flow(noisy, text)
        nats.append(negative_log_likelihood(encoded).flatten(1).mean(1).cpu())
    return torch.cat(nats)


def _batches(clips: Sequence[Clip]) -> Iterable[Sequence[Clip]]:
    return (clips[start : start + BATCH] for start in range(0, len(clips), BATCH))


def _encode(folder: Path, source: RenderedToyworld, device: torch.device) -> None:
    """Fill the latent cache that training opens."""
    pipeline = StarFlowPipeline.from_pretrained("toyworld").to(device)
    config = pipeline.config
    clip_format = ClipFormat(config.num_frames, config.fps, config.height, config.width)
    open_latent_cache(folder, source, pipeline.codec, clip_format)


def _train(folder: Path, source: Toyworld, steps: int, batch: int, device: torch.device) -> Path:
    """Train by the recipe of the last stage, at half its learning rates; returns the folder of the model."""
    rates = "{lr: 3.0e-4, muon_lr: 0.006, clip_norm: 1.0}"
    values = {
        "output": folder / f"run-{steps}",
        "init": "toyworld",
        "latents": folder / "latents",
        "data.seed": source.seed,
        "data.num_clips": source.num_clips,
        "batch_size": batch,
        "optimizer": rates,
        "denoiser_optimizer": rates,
        "loop.device": device.type,
        "loop.num_steps": steps,
        "loop.warmup_steps": steps // 20,
        "loop.decay_steps": steps // 2,
        "loop.accumulation": 1,
        "loop.workers": 1,
        "loop.ema_decay": 0.98,
        "loop.preview_every": steps + 1,
        "loop.checkpoint_every": steps + 1,
    }
    return train_flow(load_config(FlowTrainConfig, RECIPE, [f"{key}={value}" for key, value in values.items()]))


def _steps_that_fit(results: Results, folder: Path, source: Toyworld, size: Size) -> int:
    """The number of steps for which there is time, by the times of two short runs."""
    fewer, more = size.trial

    def trial(steps: int) -> float:
        return seconds(lambda: _train(folder, source, steps, size.batch, results.device), results.device)

    short, long = trial(fewer), trial(more)
    step = max(long - short, 1e-3) / (more - fewer)
    start = max(short - fewer * step, 0)
    left = results.seconds_left() - start - AFTER
    steps = int(left / step)
    results.add("pace of the improvement", seconds_of_a_step=step, seconds_of_a_start=start, steps_that_fit=steps)
    if size.most_steps is not None:
        return min(steps, size.most_steps)
    if steps < FEWEST_STEPS:
        raise RuntimeError(
            f"{left:.0f} s are left, enough for {steps} steps of {step:.2g} s: fewer than {FEWEST_STEPS}"
        )
    return steps


def _bring_back(model: Path, folder: Path) -> None:
    """Copy the weights of the trained parts, one file each, named as the part."""
    for part in PARTS:
        (weights,) = (model / part).glob("*.safetensors")
        with atomic_write(folder / f"{part}.safetensors") as temporary:
            shutil.copyfile(weights, temporary)
