"""Functions that several processes run in tests, in a module that they can import."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from invertible_maps import HEAD_DIM, randomize
from plans import sample
from starflow.cli.main import run
from starflow.data import encoding
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.flow.transformer import Transformer
from starflow.hardware.parallel import parallelize
from starflow.hardware.ranks import Rank, joined
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import VideoStream, denoise_by_score
from starflow.sampling.solvers import sequential
from starflow.train import loop
from starflow.train.config import LoopConfig, OptimizerConfig, ParallelConfig
from starflow.train.muon import Muon
from starflow.train.parallelize import parallelize as parallelize_training
from starflow.train.processes import training_processes
from starflow.train.state import Trained, create_state, parameter_groups, whole
from tiny_pipeline import LATENT_CHANNELS, TEXT_WIDTH, tiny_pipeline

CPU = torch.device("cpu")


def shareable_pipeline() -> StarFlowPipeline:
    """A tiny pipeline whose layers have four heads, and eight in the deep block."""
    pipeline = tiny_pipeline()
    flow = StarFlow(
        LATENT_CHANNELS, [1, 1], 2, 4 * HEAD_DIM, 8 * HEAD_DIM, HEAD_DIM, TEXT_WIDTH, position_length=2, soft_clip=2
    )
    denoiser = CausalDenoiser(LATENT_CHANNELS, 4 * HEAD_DIM, 2, HEAD_DIM, TEXT_WIDTH, position_length=2)
    parts = {"flow": randomize(flow, dtype=flow.dtype), "denoiser": randomize(denoiser, dtype=denoiser.dtype)}
    pipeline.register_modules(**parts)
    return pipeline


def parts() -> tuple[StarFlow, CausalDenoiser]:
    pipeline = shareable_pipeline()
    return pipeline.flow.double(), pipeline.denoiser.double()


def computed(flow: StarFlow, denoiser: CausalDenoiser) -> dict[str, Tensor]:
    """The result of each operation of the models."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    text, null_text = (torch.randn(2, 5, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    guided, report = sample(flow, x, text, null_text, 2.0, prefix=0.5 * x[:, :1])
    assert report.deep.converged
    with torch.no_grad():
        return {
            "encoded": flow.encode(x, text).z.contiguous(),
            "sampled": sample(flow, x, text, solver=sequential)[0].contiguous(),
            "guided": guided.contiguous(),
            "denoised": denoiser(x, text).contiguous(),
            "score": denoise_by_score(flow, x, text, 0.3).contiguous(),
        }


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    local = {name: getattr(p.data, "_local_tensor", p.data) for name, p in module.named_parameters()}
    return {name: tensor.shape for name, tensor in local.items()}


def num_heads(module: nn.Module) -> set[int]:
    return {each.num_heads for each in module.modules() if isinstance(each, Transformer)}


def share_and_compute(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = Rank.of_this_process()
    with joined(rank, CPU) as mesh:
        flow, denoiser = (parallelize(part, mesh) for part in parts())
        save_file(computed(flow, denoiser), folder / f"{rank.rank}.safetensors")
        torch.save([shapes(flow), num_heads(flow)], folder / f"{rank.rank}.pth")


def generate(*arguments: str) -> int:
    torch.set_num_threads(1)
    return run(["generate", *arguments])


def generate_and_die(*arguments: str) -> int:
    """Generate, but let the second process exit at its first frame, as if it had been killed."""
    if os.environ["RANK"] == "1":
        VideoStream.__next__ = lambda _: os._exit(9)
    return generate(*arguments)


def encode_clips(*arguments: str) -> int:
    """Encode clips in shards of two."""
    torch.set_num_threads(1)
    encoding.CLIPS_PER_SHARD = 2
    return run(["data", "encode", *arguments])


def encode_from_store(environment: dict[str, str], *arguments: str) -> int:
    """`encode_clips` with the variables of a store."""
    os.environ.update(environment)
    return encode_clips(*arguments)


def train(*arguments: str) -> int:
    torch.set_num_threads(1)
    return run(["train", *arguments])


def train_and_stop(victim: str, signal_name: str, seconds: str, *arguments: str) -> int:
    """Train, but send a signal to the process of this rank so many seconds after its first step has begun."""
    original = loop.optimizer_step

    def first_step(*given: Any) -> dict[str, float]:
        loop.optimizer_step = original
        if os.environ["RANK"] == victim:
            timer = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.Signals[signal_name]))
            timer.daemon = True
            timer.start()
        return original(*given)

    loop.optimizer_step = first_step
    return train(*arguments)


def muon_steps(folder: Path) -> None:
    """Save the weights after some sharded steps of Muon and AdamW, and after the same steps of the whole module."""
    torch.set_num_threads(1)
    with training_processes("cpu"):
        weights = []
        for parallel in (ParallelConfig("fsdp"), None):
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Conv3d(3, 5, 3))
            trained = {"m": Trained(module, OptimizerConfig(lr=0.1, muon_lr=0.1, weight_decay=0.1))}
            if parallel is None:
                groups = parameter_groups("m", module, trained["m"].optimizer)
                optimizer, parameters = Muon(groups), list(module.parameters())
            else:
                state = create_state(trained, LoopConfig(num_steps=9, decay_steps=0, warmup_steps=0), parallel)
                optimizer, parameters = state.optimizer, list(module.parameters())
            for _ in range(3):
                for parameter in parameters:
                    gradient = torch.randn(parameter.shape)
                    if isinstance(parameter, DTensor):
                        mesh, placements = parameter.device_mesh, parameter.placements
                        gradient = distribute_tensor(gradient, mesh, placements, src_data_rank=None)
                    parameter.grad = gradient
                optimizer.step()
            weights.append([whole(parameter.detach()) for parameter in parameters])
        torch.save(weights, folder / f"{os.environ['RANK']}.pth")


def compiled_gradients(folder: Path) -> None:
    """Save the gradients of a sharded flow, with its layers as they are and compiled."""
    torch.set_num_threads(1)
    with training_processes("cpu"):
        found = []
        for is_compiled in (False, True):
            torch.manual_seed(0)
            flow = StarFlow(4, [1], 1, HEAD_DIM, HEAD_DIM, HEAD_DIM, TEXT_WIDTH, position_length=2)
            randomize(flow, dtype=flow.dtype).requires_grad_()
            loop_config = LoopConfig(num_steps=1, decay_steps=0, bf16=False)
            parallelize_training(flow, loop_config, ParallelConfig("fsdp", compile=is_compiled))
            torch.manual_seed(int(os.environ["RANK"]))
            encoded = flow(torch.randn(2, 3, 4, 2, 2), torch.randn(2, 5, TEXT_WIDTH))
            (encoded.z.square().mean() - encoded.log_det.mean()).backward()
            found.append({name: whole(each.grad) for name, each in flow.named_parameters()})
        torch.save(found, folder / f"{os.environ['RANK']}.pth")
