"""Training steps: layers as wide as the 7B deep block's on whole clips, and the bundled model."""

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from measure import Results, median_ms, peak_bytes, release
from starflow.flow.block import AffineBlock
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.loss import add_noise, flow_loss, score_prediction
from starflow.flow.model import Encoded, StarFlow
from starflow.flow.rope import grid_positions, rotations, text_positions
from starflow.pipeline.pipeline import StarFlowPipeline
from works import CLIP_FRAME_TOKENS, CLIP_FRAMES, Cost, transformer_cost

CHANNELS, TEXT_TOKENS, TEXT_WIDTH = 48, 256, 2048
USABLE = 0.9  # share of the card's memory that tensors may take


def measure(results: Results, tiny: bool) -> None:
    """What surely runs first; compiling, which takes longest, last."""
    layers = 2 if tiny else 4
    for count, checkpointing in ((layers // 2, False), (layers, False), (layers // 2, True), (layers, True)):
        with results.attempt(f"{count} layers{', checkpointing' * checkpointing}"):
            _train_layers(results, count, tiny, checkpointing=checkpointing)
    for batch in (2, 4) if tiny else (32, 256):
        with results.attempt(f"the bundled model, batch {batch}"):
            _train_bundled(results, batch)
    with results.attempt("as many layers as fit, checkpointing"):
        if results.device.type == "cuda" and (fit := _layers_that_fit(results)) > layers:
            _train_layers(results, fit, tiny, checkpointing=True)
    for checkpointing in (False, True):
        with results.attempt(f"{layers} layers, compiled{', checkpointing' * checkpointing}"):
            _train_layers(results, layers, tiny, checkpointing=checkpointing, compiled=True)


def training_cost(layers: int, width: int, n: int) -> Cost:
    """FLOPs of a forward and a backward pass, which is twice the forward pass; nothing is counted twice."""
    forward = transformer_cost(layers, width, 1, n, 0)
    return Cost(3 * forward.flops, 3 * forward.bytes, 3 * forward.launches)


def _train_layers(results: Results, layers: int, tiny: bool, *, checkpointing: bool, compiled: bool = False) -> None:
    """A step on one clip, weights in float32, arithmetic in bfloat16, AdamW."""
    device, width = results.device, 128 if tiny else 4096
    grid = (3, 4, 6) if tiny else (CLIP_FRAMES, 30, CLIP_FRAME_TOKENS // 30)
    num_text_tokens, head_dim = (8, 32) if tiny else (TEXT_TOKENS, 64)
    with device:
        block = AffineBlock(CHANNELS, width, layers, head_dim, TEXT_WIDTH, soft_clip=4.0)
        text = torch.randn(1, num_text_tokens, TEXT_WIDTH)
        v = torch.randn(1, grid[0] * grid[1] * grid[2], CHANNELS)
    positions = torch.cat([text_positions(num_text_tokens, 32), grid_positions(*grid, 32).flatten(0, 2)])
    rotation = rotations(positions, head_dim, torch.float32, device)
    stack = block.transformer.layers
    for index, layer in enumerate(stack):
        if compiled:
            layer.compile(backend="aot_eager" if tiny else "inductor")
        if checkpointing:
            stack[index] = checkpoint_wrapper(layer)
    optimizer = torch.optim.AdamW(block.parameters(), fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = flow_loss(Encoded(*block(v, rotation, text)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    ms, peak = _step_ms(step, results)
    num_tokens = v.shape[1]
    results.add(
        "training",
        layers=layers,
        width=width,
        checkpointing=checkpointing,
        compiled=compiled,
        ms=ms,
        tokens_per_second=1000 * num_tokens / ms,
        peak_bytes=peak,
        **asdict(training_cost(layers, width, num_text_tokens + num_tokens)),
    )


def _step_ms(step: Callable[[], None], results: Results) -> tuple[float, int]:
    """Milliseconds of a step, and its peak memory once the optimizer has its state."""
    step()
    release()
    return median_ms(step, results.device, 3), peak_bytes(step, results.device)


def _layers_that_fit(results: Results) -> int:
    """By the memory of the steps with few layers, which grows evenly with their number."""
    few, more = [row for row in results.rows if row["table"] == "training" and row["checkpointing"]]
    each = (more["peak_bytes"] - few["peak_bytes"]) / (more["layers"] - few["layers"])
    total = torch.cuda.mem_get_info()[1]
    return int(more["layers"] + (USABLE * total - more["peak_bytes"]) / each)


def _train_bundled(results: Results, batch: int) -> None:
    """A step of flow and denoiser on latents of noise: the flow's loss, and the denoiser learns the flow's score."""
    device = results.device
    pipeline = StarFlowPipeline.from_pretrained("toyworld").to(device)
    flow, denoiser = pipeline.flow.train(), pipeline.denoiser.train()
    config = pipeline.config
    x = torch.randn(pipeline.codec.latent_shape(batch, config.num_frames, config.height, config.width), device=device)
    text = torch.randn(batch, config.max_text_tokens, flow.config["text_width"], device=device)
    optimizer = torch.optim.AdamW([*flow.parameters(), *denoiser.parameters()], lr=1e-5, fused=True)
    noise_std = config.noise_std

    def step() -> None:
        _backward(flow, denoiser, x, text, noise_std)
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    ms, peak = _step_ms(step, results)
    results.add("bundled training", batch=batch, ms=ms, clips_per_second=1000 * batch / ms, peak_bytes=peak)


def _backward(flow: StarFlow, denoiser: CausalDenoiser, x: Tensor, text: Tensor, noise_std: float) -> None:
    """Gradients of both losses, with arithmetic in bfloat16."""
    noisy = add_noise(x, noise_std).requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16):
        loss = flow_loss(flow(noisy, text))
    loss.backward()
    assert noisy.grad is not None
    score = score_prediction(noisy.grad, noise_std)
    with torch.autocast(x.device.type, torch.bfloat16):
        prediction = denoiser(noisy.detach(), text)
    (prediction.float() - score).square().mean().backward()
