"""Memory and seconds of `starflow convert`, `starflow export` and loading, on a checkpoint of the released size.

    python benchmarks/conversion.py -o FOLDER [--preset starflow-v-7b]

Writes a checkpoint of random weights with the released names, shapes and precision to FOLDER, then converts it with and
without a cast, exports and loads it, each in a process of its own. In the end only conversion.json is kept. FOLDER
needs room for three times the checkpoint: 42 GB for the video model, 24 GB for the image model.

Works on Linux only. Two kinds of memory are measured every few milliseconds, and their peaks reported: private memory,
and mapped files, which the system can take back when it needs the room. The VAE and the text encoder are tiny
stand-ins; only the flow and the denoiser have their real size.
"""

import os
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

import harness

EVERY = 0.005  # seconds between two measurements
GB = 1e9
DTYPE, CAST_DTYPE = "bfloat16", "float16"


def write_checkpoint(preset: str, path: Path) -> None:
    """Write a `.pth` of random weights. It is filled through a memory map: it never is in memory as a whole."""
    import mmap

    import torch
    from torch._subclasses import FakeTensorMode

    from starflow.convert.presets import released_model
    from starflow.convert.released import build, released_parameters

    shapes = released_parameters(*build(released_model(preset).arguments))
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({name: torch.empty(shape, dtype=getattr(torch, DTYPE)) for name, shape in shapes.items()}, path)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        for tensor in torch.load(path, mmap=True, weights_only=True).values():
            tensor.uniform_(-0.05, 0.05)


def write_surroundings(preset: str, folder: Path) -> tuple[Path, Path]:
    """Write a small VAE and a small text encoder that fit the model; returns their folders."""
    from diffusers import AutoencoderKL, AutoencoderKLWan

    from starflow.convert.presets import released_model
    from starflow.encoders.text import tiny_text_encoder, train_tokenizer

    config = released_model(preset).vae.config()
    small = {"base_dim": 8, "decoder_base_dim": 8} if "dim_mult" in config else {"block_out_channels": [32] * 4}
    vae_class = AutoencoderKLWan if "dim_mult" in config else AutoencoderKL
    vae_class.from_config(config | small).save_pretrained(folder / "vae")
    tokenizer = train_tokenizer(["a corgi looks at the camera"], 300)
    tokenizer.save_pretrained(folder / "text")
    tiny_text_encoder(len(tokenizer), 2048, layers=1).save_pretrained(folder / "text")
    return folder / "vae", folder / "text"


def memory(pid: int) -> tuple[int, int]:
    """Bytes of private memory and of mapped files of a process; 0 once it has ended."""
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return 0, 0
    return info.rss - info.shared, info.shared


def work(task: str, arguments: list[str]) -> None:
    """Run a task in this process: import, print `ready`, wait for a line, work, print the seconds that it took."""
    import torch

    import starflow.convert.convert as conversion
    from starflow.convert.presets import released_model
    from starflow.pipeline.pipeline import StarFlowPipeline

    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    if task in ("convert", "cast"):
        checkpoint, output, preset, vae, text = arguments
        dtype = getattr(torch, CAST_DTYPE) if task == "cast" else None
        conversion.convert(Path(checkpoint), released_model(preset, vae, text), Path(output), dtype)
    elif task == "export":
        conversion.export(Path(arguments[0]), Path(arguments[1]))
    else:
        StarFlowPipeline.from_pretrained(arguments[0], dtype=getattr(torch, DTYPE))
    print(time.perf_counter() - start, flush=True)
    sys.stdin.readline()


def measure(task: str, *arguments: Any) -> dict[str, Any]:
    """Run a task in a new process, and measure its memory from the moment it starts to work until it is done."""
    command = [sys.executable, __file__, "work", task, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            sys.exit(f"{task} did not start")
        before, _ = memory(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        seconds, private, mapped = _watch(process, before)
        process.stdin.close()  # lets it end
    row = {"task": task, "seconds": seconds, "before": before, "peak_private": private, "peak_mapped": mapped}
    sizes = f"{before / GB:11.2f}{private / GB:11.2f}{(private - before) / GB:9.3f}{mapped / GB:9.2f}"
    print(f"{task:8} {seconds:8.1f}{sizes}", flush=True)
    return row


def _watch(process: "subprocess.Popen[str]", private: int) -> tuple[float, int, int]:
    """Seconds that the task took, and the peaks of its private memory and its mapped files in bytes."""
    assert process.stdout is not None
    mapped = 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not selector.select(EVERY):
            now = memory(process.pid)
            private, mapped = max(private, now[0]), max(mapped, now[1])
    said = os.read(process.stdout.fileno(), 100).decode()
    if not said:
        sys.exit("a task failed")
    return float(said), private, mapped


def main() -> None:
    """Print the table, write conversion.json."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the files and the results")
    parser.add_argument("--preset", default="starflow-v-7b")
    arguments = parser.parse_args()
    scratch = arguments.output / "scratch"
    scratch.mkdir(parents=True)
    checkpoint, folder, again = scratch / "model.pth", scratch / "model", scratch / "again.pth"
    try:
        write_checkpoint(arguments.preset, checkpoint)
        vae, text = write_surroundings(arguments.preset, scratch)
        size = checkpoint.stat().st_size
        print(f"a checkpoint of {size / GB:.2f} GB; memory in GB")
        print(f"{'':8} {'seconds':>8}{'imports':>11}{'peak':>11}{'extra':>9}{'mapped':>9}")
        rows = [measure("cast", checkpoint, folder, arguments.preset, vae, text)]
        shutil.rmtree(folder)
        rows += [
            measure("convert", checkpoint, folder, arguments.preset, vae, text),
            measure("export", folder, again),
            measure("load", folder),
        ]
    finally:
        shutil.rmtree(scratch)
    harness.write_results(arguments.output / "conversion.json", preset=arguments.preset, bytes=size, rows=rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], sys.argv[3:])
    else:
        harness.run(main)
