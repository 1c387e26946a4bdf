"""What reading clips costs in training: the loader, training steps and the encoding of latents, each as a ratio.

    python benchmarks/training.py [--clips 16] [--repeats 5] [--workers 1] [--json FILE]

The clips are made for the run: H.264, 640×360, 49 frames, with the grain of a film. Each row has the seconds of
starflow, the seconds of the plain way to do the same, and two ratios: that of the seconds, and that of the processor
time of this process, which other work on the machine changes less:

* loader: `ClipLoader` reads all clips whole at 160×96 pixels. In the first epoch it also has to find out what the files
  are; the row after it is of later epochs. Plain: PyAV decodes all frames to RGB at full size, with
  its defaults. Both in this process.
* VAE step: the clips are read by a loader, in `--workers` processes. Plain: the clips are in memory.
* flow step: the latents are read from a cache. Plain: they are in memory.
* encoding: `encode_source` with `--workers` processes. Plain: the autoencoder alone, on clips in memory.

Runs of both ways alternate. The figures are medians. See "Reading the figures" in benchmarks/README.md.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
import numpy as np
import torch

import harness
from starflow.data import files
from starflow.data.encoding import encode_source, open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.data.folder import ClipFolder
from starflow.data.loader import ClipLoader
from starflow.data.tasks import Mixture, TaskWeights
from starflow.encoders.video import VideoCodec
from starflow.media.video import write_video
from starflow.train.config import LoopConfig, Phase, VAEModelConfig, VAETrainConfig
from starflow.train.vae import NoisyAutoencoder, VAEStep, build_vae

HEIGHT, WIDTH, SIZE, FPS = 360, 640, (96, 160), 24.0
NUM_FRAMES, STEP_FRAMES, BATCH_SIZE = 49, 17, 2  # frames of a file and of a training clip, clips of a batch
GRAIN = 6  # standard deviation of the noise on every pixel


class Seconds(NamedTuple):
    """How long something took, and the processor time of this process."""

    wall: float
    cpu: float


@dataclass
class Compared:
    """Two ways to do the same thing."""

    name: str
    ours: Callable[[], object]
    plain: Callable[[], object]

    def measure(self, repeats: int) -> Mapping[str, float]:
        """Median seconds of both, run by turns after a warm-up, and the medians of the ratios."""
        self.ours(), self.plain()
        pairs = [(_seconds(self.ours), _seconds(self.plain)) for _ in range(repeats)]
        return {
            "ours": median(ours.wall for ours, _ in pairs),
            "plain": median(plain.wall for _, plain in pairs),
            "ratio": median(ours.wall / plain.wall for ours, plain in pairs),
            "cpu_ratio": median(ours.cpu / plain.cpu for ours, plain in pairs),
        }


def make_clips(folder: Path, number: int) -> None:
    """Clips of moving blocks with the grain of a film, with captions."""
    rng = np.random.default_rng(0)
    for index in range(number):
        coarse = rng.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3), dtype=np.uint8)
        picture = coarse.repeat(40, axis=0).repeat(40, axis=1)
        frames = np.stack([np.roll(picture, (frame, 3 * frame), (0, 1)) for frame in range(NUM_FRAMES)])
        frames = (frames + rng.normal(0, GRAIN, frames.shape)).clip(0, 255).astype(np.uint8)
        write_video(folder / f"{index:03d}.mp4", frames, FPS)
        (folder / f"{index:03d}.txt").write_text(f"clip {index}")


def decode(source: ClipFolder) -> None:
    """Decode all clips to RGB with PyAV, and nothing else."""
    for file in source.files:
        with av.open(str(file.path)) as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")


def loader_of(source: ClipFolder, workers: int = 0) -> ClipLoader:
    """A loader of whole clips."""
    height, width = SIZE
    return ClipLoader(source, range(len(source)), fps=FPS, height=height, width=width, num_workers=workers)


class InMemory:
    """Stands for a `ClipLoader` or a `Mixture` whose data are in memory."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def marked_excerpts(self, *_: int) -> tuple[Any, None]:
        """The clips, which have no marks."""
        return self.result, None

    def batch(self, *_: int) -> Any:
        """The batch."""
        return self.result


class Steps:
    """Training steps of a small VAE, one after the other."""

    def __init__(self, clips: Any) -> None:
        config = VAETrainConfig(
            output="",
            data={},
            model=VAEModelConfig(base_dim=16, z_dim=16),
            loop=LoopConfig(num_steps=10**6, decay_steps=0, bf16=False),
            phases=[Phase(10**6, STEP_FRAMES, BATCH_SIZE)],
        )
        torch.manual_seed(0)
        model = NoisyAutoencoder(build_vae(config.model), config.loss.latent_noise)
        self.step, self.number = VAEStep(model, clips, config), 0

    def __call__(self) -> None:
        """The next step."""
        self.step(self.number, 0, 1.0)
        self.number += 1


def compare(folder: Path, workers: int) -> list[Compared]:
    """What the script compares, for the clips in a folder."""
    source, (height, width) = ClipFolder(str(folder)), SIZE
    loader = loader_of(source)
    codec = VideoCodec(build_vae(VAEModelConfig(base_dim=16, z_dim=16)).eval())
    clip_format = ClipFormat(STEP_FRAMES, FPS, height, width)
    videos = loader.excerpts(0, len(source), NUM_FRAMES)  # the cache keeps all frames, for continuations
    encodings = iter(range(10**6))

    def encode_anew() -> None:
        latents = folder / f"latents-{next(encodings)}"
        encode_source(latents, source, codec, clip_format, num_workers=workers, show_progress=False)

    def encode_only() -> None:
        for video in videos:
            codec.encode(video[None])
            codec.encode(video[None, -1:])  # as a picture, as in the cache

    cache = open_latent_cache(folder / "latents", source, codec, clip_format, show_progress=False)
    mixture = Mixture(cache, TaskWeights(), BATCH_SIZE)
    flow, in_memory = harness.load("toyworld").flow.train(), InMemory(mixture.batch(0))

    def flow_step(batches: Any) -> None:
        latents = batches.batch(0).latents[:, :, : flow.config["latent_channels"]]
        noise = torch.zeros(len(latents), 8, flow.config["text_width"])
        encoded = flow(_with_channels(latents, flow.config["latent_channels"]), noise)
        (encoded.z.square().mean() - encoded.log_det.mean()).backward()

    def first_epoch() -> None:
        files.opened.cache_clear()
        loader.excerpts(0, len(source), NUM_FRAMES)

    return [
        Compared("loader, first epoch", first_epoch, lambda: decode(source)),
        Compared("loader, later epochs", lambda: loader.excerpts(0, len(source), NUM_FRAMES), lambda: decode(source)),
        Compared(
            f"VAE step, {workers} worker(s)",
            Steps(loader_of(source, workers)),
            Steps(InMemory(videos[:BATCH_SIZE, :STEP_FRAMES])),
        ),
        Compared(
            "flow step",
            lambda: flow_step(mixture),
            lambda: flow_step(in_memory),
        ),
        Compared(f"encoding, {workers} worker(s)", encode_anew, encode_only),
    ]


def _with_channels(latents: torch.Tensor, channels: int) -> torch.Tensor:
    """Latents with as many channels as a flow takes."""
    return latents.repeat(1, 1, -(-channels // latents.shape[2]), 1, 1)[:, :, :channels]


def _seconds(function: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    """Print a row for each ratio; write them as JSON if asked."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--clips", type=harness.positive, default=16, help="clips to make")
    parser.add_argument("--repeats", type=harness.positive, default=5, help="runs of each")
    parser.add_argument("--workers", type=harness.positive, default=1, help="processes that read clips")
    parser.add_argument("--json", type=Path, help="a file for the results")
    asked = parser.parse_args()
    results: dict[str, Mapping[str, float]] = {}
    print(f"{'seconds':24}{'ours':>9}{'plain':>9}{'ratio':>8}{'CPU ratio':>12}")
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder), asked.clips)
        for compared in compare(Path(folder), asked.workers):
            row = results[compared.name] = compared.measure(asked.repeats)
            ratios = f"{row['ratio']:>8.2f}{row['cpu_ratio']:>12.2f}"
            print(f"{compared.name:24}{row['ours']:>9.3f}{row['plain']:>9.3f}{ratios}", flush=True)
    if asked.json is not None:
        harness.write_results(asked.json, clips=asked.clips, workers=asked.workers, results=results)


if __name__ == "__main__":
    harness.run(main)
