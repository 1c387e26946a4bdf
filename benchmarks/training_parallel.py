"""Cost of several processes, of checkpoints and of activation checkpointing in training, on this machine's CPU.

    python benchmarks/training_parallel.py -o FOLDER

Two processes on one machine share its cores, so the seconds only compare the strategies with each other. The memory of
activations is counted, not measured: the bytes of the tensors that a forward pass keeps for the backward pass.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from harness import new_parser, positive, run, write_results
from starflow.flow.loss import flow_loss
from starflow.flow.model import StarFlow
from starflow.hardware.live_bytes import LiveBytes
from starflow.train.checkpoint import Checkpoints, list_checkpoints
from starflow.train.config import LoopConfig, OptimizerConfig, ParallelConfig
from starflow.train.loop import optimizer_step
from starflow.train.parallelize import ACTIVATION_CHECKPOINTING, parallelize
from starflow.train.processes import is_main, training_processes
from starflow.train.state import Trained, TrainState, create_state

LATENTS, TEXT = (2, 3, 24, 8, 8), (2, 32, 128)
LOOP = LoopConfig(num_steps=10**6, decay_steps=0, accumulation=2, bf16=False)


def new_flow() -> StarFlow:
    torch.manual_seed(0)
    return StarFlow(LATENTS[2], [1, 1], 4, 128, 192, 64, TEXT[2], position_length=8)


def tensors() -> tuple[Tensor, Tensor]:
    return torch.randn(LATENTS), torch.randn(TEXT)


class Step:
    """The loss of a flow on random latents."""

    def __init__(self, flow: StarFlow) -> None:
        self.flow = flow

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        loss = flow_loss(self.flow(*tensors()))
        (scale * loss).backward()
        return {"loss": loss.item(), "clips": float(LATENTS[0])}


def new_state(parallel: ParallelConfig) -> tuple[TrainState, Step]:
    flow = new_flow()
    return create_state({"flow": Trained(flow, OptimizerConfig())}, LOOP, parallel), Step(flow)


def seconds_of_steps(state: TrainState, step: Step, repeats: int) -> list[float]:
    """Seconds of each step after the first two."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        optimizer_step(state, step, LOOP)
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def work(output: Path, repeats: int) -> None:
    """What each of the two processes does: steps of each strategy in turn, so that a slow minute slows all of them."""
    with training_processes("cpu"):
        states = {name: new_state(ParallelConfig(name)) for name in ("ddp", "fsdp")}
        seconds: dict[str, list[float]] = {name: [] for name in states}
        for _ in range(3):
            for name, (state, step) in states.items():
                seconds[name] += seconds_of_steps(state, step, repeats)
        if is_main():
            output.write_text(json.dumps({name: median(each) for name, each in seconds.items()}))


def seconds_in_two_processes(folder: Path, repeats: int) -> dict[str, float]:
    output = folder / "two_processes.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, __file__, "-o", str(output), "--repeats", str(repeats)], check=True)
    return json.loads(output.read_text())


def checkpoint_cost(folder: Path, repeats: int) -> dict[str, float]:
    """Seconds that a checkpoint holds up training, seconds until it is on disk, and its megabytes."""
    state, step = new_state(ParallelConfig())
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    held_up, on_disk = [], []
    for _ in range(repeats):
        optimizer_step(state, step, LOOP)
        start = time.perf_counter()
        checkpoints.save(state)
        held_up.append(time.perf_counter() - start)
        checkpoints.wait()
        on_disk.append(time.perf_counter() - start)
    (newest,) = list_checkpoints(folder / "checkpoints")
    size = sum(file.stat().st_size for file in newest.iterdir())
    return {
        "step_seconds": median(seconds_of_steps(state, step, repeats)),
        "held_up_seconds": median(held_up),
        "on_disk_seconds": median(on_disk),
        "megabytes": size / 1e6,
    }


def recomputation(repeats: int) -> dict[str, dict[str, float]]:
    """Megabytes of activations and seconds of a step, without and with each kind of activation checkpointing."""
    rows = {}
    for kind in ACTIVATION_CHECKPOINTING:
        flow = new_flow()
        parallelize(flow, LOOP, ParallelConfig(activation_checkpointing=kind))
        with LiveBytes() as live:
            kept = flow(*tensors())
            megabytes = live.now / 1e6
            del kept
        state, step = new_state(ParallelConfig(activation_checkpointing=kind))
        seconds = median(seconds_of_steps(state, step, repeats))
        rows[kind] = {"activation_megabytes": megabytes, "step_seconds": seconds}
    return rows


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for training_parallel.json")
    parser.add_argument("--repeats", type=positive, default=10, help="steps that each figure is the median of")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        work(arguments.output, arguments.repeats)
        return
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    two = seconds_in_two_processes(folder, arguments.repeats)
    checkpoint = checkpoint_cost(folder, arguments.repeats)
    kinds = recomputation(arguments.repeats)
    print(f"two processes: fsdp takes {two['fsdp'] / two['ddp']:.2f} times as long as ddp")
    share = checkpoint["held_up_seconds"] / checkpoint["step_seconds"]
    print(f"a checkpoint of {checkpoint['megabytes']:.0f} MB holds training up for {share:.2f} steps")
    for kind, row in kinds.items():
        memory, seconds = (row[key] / kinds["none"][key] for key in ("activation_megabytes", "step_seconds"))
        print(f"activation checkpointing {kind}: {memory:.2f} of the memory, {seconds:.2f} of the seconds")
    write_results(folder / "training_parallel.json", two_processes=two, checkpoint=checkpoint, recomputation=kinds)


if __name__ == "__main__":
    run(main)
