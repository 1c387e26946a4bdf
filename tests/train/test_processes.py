"""Training in several processes: the same losses as in one, checkpoints that move between them, and lost processes."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent

import shared_work
from processes import run_processes
from starflow.cli.main import run
from starflow.config import save_config
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.checkpoint import list_checkpoints
from starflow.train.config import (
    DenoiserModelConfig,
    FlowModelConfig,
    FlowTrainConfig,
    LoopConfig,
    LoraConfig,
    LoraTrainConfig,
    OptimizerConfig,
    Phase,
    PipelineConfig,
    TextModelConfig,
    VAEModelConfig,
    VAETrainConfig,
)
from tiny_pipeline import tiny_pipeline, tiny_vae

NUM_STEPS = 20
STRATEGIES = {
    "ddp": ["parallel.strategy=ddp"],
    "fsdp": ["parallel.strategy=fsdp", "parallel.activation_checkpointing=selective"],
    "hsdp": ["parallel.strategy=hsdp", "parallel.group_size=2", "parallel.activation_checkpointing=full"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config for a run of 20 steps of 4 micro steps, and a single process's run of it in `single`."""
    folder = tmp_path_factory.mktemp("processes")
    tiny_vae().save_pretrained(folder / "vae")
    optimizer = OptimizerConfig(lr=3e-3)
    config = FlowTrainConfig(
        output=str(folder / "single"),
        latents=str(folder / "latents"),
        vae=str(folder / "vae"),
        batch_size=2,
        data={"source": "toyworld", "num_clips": 4, "edited": 0.5},
        pipeline=PipelineConfig(num_frames=5, fps=8, height=32, width=32, noise_std=0.3, max_text_tokens=16),
        flow=FlowModelConfig([1, 1], 2, 20, 20, head_dim=20),
        denoiser=DenoiserModelConfig(20, 1),
        text=TextModelConfig(300, 16, 1),
        optimizer=optimizer,
        denoiser_optimizer=optimizer,
        loop=LoopConfig(
            num_steps=NUM_STEPS,
            decay_steps=5,
            warmup_steps=5,
            accumulation=4,
            bf16=False,
            log_every=1,
            checkpoint_every=4,
            preview_every=1000,
        ),
    )
    save_config(config, folder / "config.yaml")
    assert run(["train", *arguments(folder, "single")]) == 0
    return folder


def arguments(folder: Path, name: str, *more: str) -> list[str]:
    """The arguments of `starflow train` for a run in the folder `name`."""
    return ["flow", str(folder / "config.yaml"), "--resume", "-o", str(folder / name), *more]


def train_in_processes(size: int, log: Path, *arguments: str) -> str:
    """What process 0 writes to the standard output."""
    codes = run_processes(size, shared_work.train, *arguments, log=log)
    assert codes == [0] * size, "\n".join(path.read_text() for path in sorted(log.glob("*.err")))
    assert [(log / f"{rank}.out").read_text() for rank in range(1, size)] == [""] * (size - 1)
    return (log / "0.out").read_text()


def logged(run_folder: Path) -> list[ScalarEvent]:
    events = EventAccumulator(str(run_folder / "tensorboard")).Reload()
    return events.Scalars("loss") if "loss" in events.Tags()["scalars"] else []


def losses(run_folder: Path) -> list[float]:
    """The loss of each step; for steps that were repeated after a restart, the last one."""
    by_step = {event.step: event.value for event in logged(run_folder)}
    assert list(by_step) == list(range(1, NUM_STEPS + 1))
    return list(by_step.values())


def assert_same_run(folder: Path, name: str) -> None:
    single = losses(folder / "single")
    assert max(single) - min(single) > 0.1
    assert losses(folder / name) == pytest.approx(single, abs=1e-5)
    one, other = (StarFlowPipeline.from_pretrained(folder / each / "final") for each in ("single", name))
    for part in ("flow", "denoiser", "text_encoder"):
        wanted, got = (each.components[part].state_dict() for each in (one, other))
        torch.testing.assert_close(got, wanted, rtol=2e-2, atol=1e-3)  # saved in bfloat16


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config for a LoRA of 20 steps, and a single process's run of it in `single`."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    tiny_pipeline().save_pretrained(folder / "base")
    config = LoraTrainConfig(
        output=str(folder / "single"),
        latents=str(folder / "latents"),
        init=str(folder / "base"),
        data={"source": "toyworld", "num_clips": 4},
        batch_size=2,
        lora=LoraConfig(rank=2, dropout=0.1),
        optimizer=OptimizerConfig(lr=1e-2),
        loop=LoopConfig(NUM_STEPS, decay_steps=5, warmup_steps=5, accumulation=2, bf16=False, log_every=1),
    )
    save_config(config, folder / "config.yaml")
    assert run(["train", *lora_arguments(folder, "single")]) == 0
    return folder


def lora_arguments(folder: Path, name: str, *more: str) -> list[str]:
    return ["lora", str(folder / "config.yaml"), "-o", str(folder / name), *more]


def num_shards(run_folder: Path) -> set[int]:
    return {len(list(path.glob("*.safetensors"))) for path in list_checkpoints(run_folder / "checkpoints")}


def test_two_processes_train_like_one(folder: Path, tmp_path: Path):
    told = train_in_processes(2, tmp_path, *arguments(folder, "ddp", *STRATEGIES["ddp"]))
    assert told.count("trained model: ") == told.count("tasks: ") == 1
    assert_same_run(folder, "ddp")


def test_a_run_moves_from_four_processes_to_two_and_to_one(folder: Path, tmp_path: Path):
    # Without decay, the schedule of a shorter run is the beginning of that of 20 steps.
    constant = "loop.decay_steps=0"
    train_in_processes(4, tmp_path, *arguments(folder, "moved", *STRATEGIES["hsdp"], "loop.num_steps=8", constant))
    assert num_shards(folder / "moved") == {4}
    train_in_processes(2, tmp_path, *arguments(folder, "moved", *STRATEGIES["fsdp"], "loop.num_steps=14", constant))
    assert run(["train", *arguments(folder, "moved")]) == 0
    assert_same_run(folder, "moved")


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [
        ("ddp", "float32"),
        pytest.param("fsdp", "bfloat16", marks=pytest.mark.slow),
        pytest.param("ddp", "int8", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_a_lora_like_one(lora: Path, tmp_path: Path, strategy: str, precision: str):
    more = [f"parallel.strategy={strategy}", "parallel.activation_checkpointing=full", f"base_precision={precision}"]
    single = "single"
    if precision != "float32":
        single = precision
        assert run(["train", *lora_arguments(lora, single, *more)]) == 0
    shared = f"{strategy}-{precision}"
    told = train_in_processes(2, tmp_path, *lora_arguments(lora, shared, *more))
    assert told.count("trained LoRA: ") == told.count("try it: ") == 1
    one = losses(lora / single)
    assert max(one) - min(one) > 0.1
    assert losses(lora / shared) == pytest.approx(one, abs=1e-5 if precision == "float32" else 1e-2)
    name = "final/pytorch_lora_weights.safetensors"
    wanted, got = (load_file(lora / each / name) for each in (single, shared))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 if precision == "float32" else 1e-2)


def test_sharded_muon_is_the_whole_muon_to_the_last_bit(tmp_path: Path):
    assert run_processes(2, shared_work.muon_steps, tmp_path, log=tmp_path) == [0, 0]
    for rank in range(2):
        sharded, plain = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(sharded, plain, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_layers_that_are_sharded_give_the_same_gradients(tmp_path: Path):
    assert run_processes(2, shared_work.compiled_gradients, tmp_path, log=tmp_path) == [0, 0]
    for rank in range(2):
        plain, compiled = torch.load(tmp_path / f"{rank}.pth")
        assert all(gradient.abs().sum() > 0 for gradient in plain.values())
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)


def test_two_processes_train_an_autoencoder_like_one(tmp_path: Path):
    config = VAETrainConfig(
        output=str(tmp_path / "single"),
        data={"source": "toyworld", "num_clips": 5},
        model=VAEModelConfig(base_dim=8, z_dim=4, dim_mult=[1, 1, 1]),
        loop=LoopConfig(num_steps=3, decay_steps=1, warmup_steps=1, accumulation=2, bf16=False, log_every=1),
        phases=[Phase(num_steps=3, num_frames=5, batch_size=1)],
        num_test_clips=1,
    )
    save_config(config, tmp_path / "vae.yaml")
    arguments = ["vae", str(tmp_path / "vae.yaml"), "parallel.strategy=fsdp", "-o"]
    assert run(["train", *arguments, str(tmp_path / "single")]) == 0
    train_in_processes(2, tmp_path, *arguments, str(tmp_path / "shared"))
    single, shared = ([event.value for event in logged(tmp_path / name)] for name in ("single", "shared"))
    assert len(single) == 3 and single[0] != single[-1]
    assert shared == pytest.approx(single, abs=1e-5)


def stopped_run(folder: Path, log: Path, name: str, victim: int, signal_name: str, seconds: float) -> list[int | None]:
    """Exit codes of a run in two processes, one of which gets a signal. No complete checkpoint may be lost."""
    before = list_checkpoints(folder / name / "checkpoints")
    stop = (str(victim), signal_name, f"{seconds:.3f}")
    codes = run_processes(2, shared_work.train_and_stop, *stop, *arguments(folder, name, *STRATEGIES["fsdp"]), log=log)
    after = list_checkpoints(folder / name / "checkpoints")
    assert after[-1:] >= before[-1:]
    return codes


def test_a_signal_to_one_process_saves_and_ends_all_and_a_killed_process_ends_the_others(folder: Path, tmp_path: Path):
    assert stopped_run(folder, tmp_path, "stopped", 1, "SIGTERM", 0.5) == [130, 130]
    told = (tmp_path / "0.out").read_text()
    (saved,) = list_checkpoints(folder / "stopped" / "checkpoints")[-1:]
    assert f"interrupted: saved step {int(saved.name[-8:])} in " in told
    time.sleep(1)  # TensorBoard orders the files of runs by the second in which they began
    assert stopped_run(folder, tmp_path, "stopped", 1, "SIGKILL", 0.3) == [1, -9]
    message = "process 0 of 2: error: another process has stopped or does not answer: see its messages"
    assert message in (tmp_path / "0.err").read_text()
    time.sleep(1)  # TensorBoard orders the files of runs by the second in which they began
    assert run(["train", *arguments(folder, "stopped")]) == 0
    assert_same_run(folder, "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_twenty_steps_of_each_strategy_are_those_of_one_process(folder: Path, tmp_path: Path, strategy: str, size: int):
    train_in_processes(size, tmp_path, *arguments(folder, f"{strategy}{size}", *STRATEGIES[strategy]))
    assert_same_run(folder, f"{strategy}{size}")


@pytest.mark.slow
def test_a_run_survives_twenty_kills_at_random_moments(folder: Path, tmp_path: Path):
    rng = random.Random(0)
    every = 4
    for _ in range(20):
        victim = rng.randrange(2)
        codes = stopped_run(folder, tmp_path, "killed", victim, "SIGKILL", rng.uniform(0, 2))
        if codes == [0, 0]:  # the run was faster
            shutil.rmtree(folder / "killed")
            continue
        assert codes[victim] == -9 and codes[1 - victim] == 1
        done = max((event.step for event in logged(folder / "killed")), default=0)
        newest = max((int(path.name[-8:]) for path in list_checkpoints(folder / "killed" / "checkpoints")), default=0)
        assert done - newest <= 2 * every  # a checkpoint may have been in writing
    train_in_processes(2, tmp_path, *arguments(folder, "killed", *STRATEGIES["fsdp"]))
    assert_same_run(folder, "killed")


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_was_killed(folder: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    job = subprocess.Popen(
        [*command, "-m", "starflow", "train", *arguments(folder, "restarted", *STRATEGIES["fsdp"])],
        stdout=subprocess.PIPE,
        text=True,
    )
    checkpoints = folder / "restarted" / "checkpoints"
    while not list_checkpoints(checkpoints):
        assert job.poll() is None
        time.sleep(0.05)
    (agent,) = [process for process in psutil.process_iter() if process.pid == job.pid]
    workers = [child for child in agent.children() if "starflow" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    told, _ = job.communicate(timeout=300)
    assert job.returncode == 0
    assert told.count("trained model: ") == 1
    assert_same_run(folder, "restarted")
