"""The memory and the time that `starflow convert`, `starflow export` and loading take on files of the released size.

    python benchmarks/conversion.py -o FOLDER [--preset starflow-v-7b]

A checkpoint of random weights with the released names, shapes and precision is written to FOLDER, converted with and
without a cast, exported and loaded, each in its own process. At the end everything but conversion.json is removed.
FOLDER needs room for three times the checkpoint: 42 GB for the video model, 24 GB for the image model.

On Linux, the benchmark reads the peaks, every few milliseconds, of anonymous memory (RssAnon), which belongs to the
process alone, and of mapped files (RssFile), which the system can reclaim. The model's VAE and text encoder are tiny:
only the flow and the denoiser have their real size.
"""

import argparse
import json
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EVERY = 0.005  # seconds, between two looks at the memory
GB = 1e9
DTYPE, CAST_DTYPE = "bfloat16", "float16"


def write_checkpoint(preset: str, path: Path) -> None:
    """A `.pth` of random weights, filled in place as a map of the file: it is never in memory."""
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
    """Folders of a VAE and of a text encoder that fit the model, and are small."""
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
    """Bytes of anonymous memory and of mapped files that a process has; nothing once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(line.split(":", 1) for line in status.splitlines())
    anonymous, file = (1024 * int(found.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssFile"))
    return anonymous, file


def work(task: str, arguments: list[str]) -> None:
    """In a process of its own: import everything, say so, work when told to, and say how long it took."""
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
    """Run a task, and look at its memory from when it starts to work until it is done."""
    command = [sys.executable, __file__, "work", task, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            sys.exit(f"{task} did not start")
        before, _ = memory(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        seconds, anonymous, file = _watch(process, before)
        process.stdin.close()  # which lets it end
    row = {"task": task, "seconds": seconds, "before": before, "peak_anonymous": anonymous, "peak_mapped": file}
    extra = anonymous - before
    sizes = f"{before / GB:11.2f}{anonymous / GB:11.2f}{extra / GB:9.3f}{file / GB:9.2f}"
    print(f"{task:8} {seconds:8.1f}{sizes}", flush=True)
    return row


def _watch(process: "subprocess.Popen[str]", anonymous: int) -> tuple[float, int, int]:
    """Seconds that the task took, and its peaks of anonymous and mapped memory, from their values before."""
    assert process.stdout is not None
    file = 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not selector.select(EVERY):
            now = memory(process.pid)
            anonymous, file = max(anonymous, now[0]), max(file, now[1])
    said = process.stdout.readline()
    if not said:
        sys.exit("a task failed")
    return float(said), anonymous, file


def main() -> None:
    """Print the table, write conversion.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the files and the results")
    parser.add_argument("--preset", default="starflow-v-7b")
    arguments = parser.parse_args()

    import torch

    from starflow.evaluation.machine import describe_machine, now
    from starflow.media.files import atomic_write

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
    machine = describe_machine(torch.device("cpu"))
    results = {"date": now(), "machine": machine, "preset": arguments.preset, "bytes": size, "rows": rows}
    with atomic_write(arguments.output / "conversion.json") as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], sys.argv[3:])
    else:
        main()
