"""The GPU memory that `starflow train lora` takes: computed on the meta device, not measured.

    python benchmarks/lora_memory.py [--model starflow-v-7b] [--rank 16] [--frames 81 17 1]

Prints a table. A batch is one clip of the model's size. Counted are all weights of the model, the adapter with its
gradients, its moving average and both moments of AdamW, and the tensors that live during the forward and the backward
pass (`loop.bf16: false`). For int8, torchao keeps a matrix in bfloat16 from the forward to the backward pass of its
layer. The caching allocator and the CUDA libraries are not counted.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from starflow.encoders.video import VideoCodec
from starflow.flow.loss import training_loss
from starflow.flow.transformer import MATRICES, Layer
from starflow.hardware.architecture import Architecture, load_architecture
from starflow.hardware.live_bytes import LiveBytes
from starflow.hardware.memory import GIB, Request, estimate_memory
from starflow.train.config import LoraConfig, LoraTrainConfig
from starflow.train.lora import add_adapter
from starflow.train.parallelize import checkpoint_activations
from starflow.train.state import trained_parameters

COPIES = 4  # of the adapter: the parameters, their moving average, two moments; the gradients are counted as they live


def working_bytes(model: str, rank: int, num_frames: int, *, checkpointing: bool) -> tuple[int, int]:
    """The bytes of an adapter, and the peak of live bytes in a step with one clip."""
    architecture = load_architecture(model)
    settings, codec, flow = architecture.settings, VideoCodec(architecture.vae), architecture.flow
    torch.nn.Module.to(flow.requires_grad_(False), torch.bfloat16)  # the `to` of diffusers warns about casts
    add_adapter(flow, LoraTrainConfig(init=model, lora=LoraConfig(rank=rank)))
    if checkpointing:
        checkpoint_activations([layer for layer in flow.modules() if isinstance(layer, Layer)], "full")
    shape = codec.latent_shape(1, num_frames, settings["height"], settings["width"])
    with torch.device("meta"):
        noisy = torch.empty(shape)
        text = torch.empty(1, settings["max_text_tokens"], flow.config["text_width"], dtype=torch.bfloat16)
    with LiveBytes() as live:
        training_loss(flow(noisy, text), settings["noise_std"]).backward()
    return sum(parameter.nbytes for parameter in trained_parameters(flow)), live.peak


def weight_bytes(architecture: Architecture, *, int8: bool) -> int:
    """The bytes of all weights of the model, in bfloat16 or with the matrices of its layers in int8."""
    settings = architecture.settings
    request = Request(settings["height"], settings["width"], 1)
    if int8:
        request = replace(request, quantize="int8")
    return sum(estimate_memory(architecture, request).weights.values())


def widened_bytes(architecture: Architecture, *, checkpointing: bool) -> int:
    """The bytes of the matrices that are in int8 and in bfloat16 at once: those of all layers, or of one at a time."""
    flow = architecture.flow
    layers = flow.deep.transformer.layers
    matrices = [layers[0].get_submodule(name).get_parameter("weight").numel() for name in MATRICES]
    return sum(matrices) * torch.bfloat16.itemsize * (1 if checkpointing else len(layers))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starflow-v-7b")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--frames", type=int, nargs="+", default=[81, 49, 17, 1])
    options = parser.parse_args(arguments)

    architecture = load_architecture(options.model)
    bfloat16, int8 = (weight_bytes(architecture, int8=int8) / GIB for int8 in (False, True))
    print(f"weights of all parts: {bfloat16:.1f} GiB in bfloat16, {int8:.1f} GiB with int8")
    print("| frames | activation checkpointing | adapter, GiB | other tensors, GiB | bfloat16, GiB | int8, GiB |")
    print("|---|---|---|---|---|---|")
    for num_frames in options.frames:
        for checkpointing in (True, False):
            adapter, live = working_bytes(options.model, options.rank, num_frames, checkpointing=checkpointing)
            own, other = COPIES * adapter / GIB, live / GIB
            widened = widened_bytes(architecture, checkpointing=checkpointing) / GIB
            row = f"{own:.2f} | {other:.1f} | {bfloat16 + own + other:.1f} | {int8 + own + other + widened:.1f}"
            print(f"| {num_frames} | {'yes' if checkpointing else 'no'} | {row} |")


if __name__ == "__main__":
    main()
