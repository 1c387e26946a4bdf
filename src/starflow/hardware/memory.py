"""What making a video takes of a device's memory, computed before anything is loaded.

The stages of the pipeline run on the meta device, by the code that will run them for real, and the bytes of their live
tensors are counted (`live_bytes`): the estimate follows the code. On top come the weights that are on the device in
each stage, and `OVERHEAD` for what the device's libraries take.

Legend: B prompts, T latent frames, D latent channels, H W latent rows and columns, M text tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.flow.block import ConditionalGaussians
from starflow.hardware.architecture import Architecture
from starflow.hardware.live_bytes import LiveBytes
from starflow.hardware.parallel import share_of
from starflow.pipeline.inputs import Given
from starflow.pipeline.pipeline import CONTEXT_SHARE
from starflow.pipeline.stages import Plan, denoised, sampled
from starflow.sampling.sampler import Window
from starflow.sampling.solvers import Gaussians, Progress, Solution, Solvers

Offload = Literal["none", "model", "group"]
Quantize = Literal["int8", "fp8", "int4"]

GIB = 2**30
OVERHEAD = GIB  # of CUDA's own context and libraries, and of what its allocator cannot use
QUANTIZED_BITS = {"int8": 8, "fp8": 8, "int4": 4}
STEADY_FRAMES = 3  # latent frames after which decoding another takes what it always takes
IN_FLIGHT = 2  # groups, of group offloading: one computes while the next is fetched

# The stages, and the part of the pipeline whose weights each needs; without a denoiser the flow denoises.
STAGES = {"text": "text_encoder", "sampling": "flow", "denoising": "denoiser", "decoding": "vae"}


@dataclass(frozen=True)
class Request:
    """A video to make, and how.

    `window` is the latent frames that the deep block's cache holds, None for those of a video of the training length;
    `frames_at_once` those that go through the shallow blocks and on together, None for the window. `given` latent
    frames stand in front, of which the first `hidden` are no part of the video (see `starflow.pipeline.inputs`).
    `processes` share the flow and the denoiser (see `parallel.py`); what is estimated is the share of one.
    """

    height: int
    width: int
    num_frames: int
    batch_size: int = 1
    guidance: bool = True
    dtype: torch.dtype = torch.bfloat16
    cache_dtype: torch.dtype | None = None
    window: int | None = None
    frames_at_once: int | None = None
    given: int = 0
    hidden: int = 0
    processes: int = 1
    offload: Offload = "none"
    quantize: Quantize | None = None
    tiling: bool = False


@dataclass(frozen=True)
class Stage:
    """Bytes on the device in one stage: of weights, and of everything else that is alive then."""

    name: str
    weights: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.working


@dataclass(frozen=True)
class MemoryEstimate:
    """What a request takes, stage by stage.

    `weights` are the bytes of each part's weights, wherever they are; `cache` those of the deep block's keys and values
    (of both branches of guidance), which are part of what stages take.
    """

    weights: dict[str, int]
    cache: int
    stages: tuple[Stage, ...]

    @property
    def peak(self) -> int:
        """Bytes that the device must have free."""
        return max(stage.total for stage in self.stages) + OVERHEAD


def estimate_memory(architecture: Architecture, request: Request) -> MemoryEstimate:
    """The device memory that a request takes at most, in every stage. The architecture is cast to the request's dtype.

    Raises UsageError for a size or a number of frames that the VAE cannot make.
    """
    if request.processes > 1:
        architecture = _share(architecture, request.processes)
    # Where the weights are changes nothing about the rest, which takes longer to find out.
    cache, working = _simulate(architecture, replace(request, offload="none", quantize=None))
    weights = {name: _weight_bytes(part, name, request) for name, part in architecture.parts.items()}
    stages = []
    for name, part in STAGES.items():
        part = part if part in weights else "flow"
        on_device = _weights_on_device(architecture, weights, part, request)
        stages.append(Stage(name, on_device, working[name] + _widened_weight(architecture.parts[part], part, request)))
    return MemoryEstimate(weights, cache, tuple(stages))


@lru_cache(maxsize=8)
def _share(architecture: Architecture, processes: int) -> Architecture:
    """The model as one of several processes has it."""
    denoiser = None if architecture.denoiser is None else share_of(architecture.denoiser, processes)
    return replace(architecture, flow=share_of(architecture.flow, processes), denoiser=denoiser)


@lru_cache(maxsize=64)
@torch.no_grad()
def _simulate(architecture: Architecture, request: Request) -> tuple[int, dict[str, int]]:
    """Bytes of the deep block's cache, and the most bytes alive in each stage."""
    for part in architecture.parts.values():
        nn.Module.to(part, request.dtype)  # diffusers' own `to` warns of casts
    architecture.vae.use_tiling = request.tiling
    architecture.flow.cache_dtype = request.cache_dtype
    solver = _LastSweep(architecture.settings.get("block_size", 16))
    with LiveBytes() as live:
        for _ in _make(architecture, request, solver, live):
            pass
    return solver.cache, live.peaks


def _make(architecture: Architecture, request: Request, solver: "_LastSweep", live: LiveBytes) -> Iterator[Tensor]:
    """The pipeline's stages, as `StarFlowPipeline.stream` runs them; a few frames are decoded for all."""
    settings, codec = architecture.settings, VideoCodec(architecture.vae)
    window = request.window or codec.num_latent_frames(settings["num_frames"])
    shape = codec.latent_shape(request.batch_size, request.num_frames, request.height, request.width)
    shape = (shape[0], shape[1] + request.hidden, *shape[2:])
    rolls = shape[1] > window > 1 and not request.hidden
    noised = _meta(shape[0], request.given, *shape[2:])
    live.stage = "text"
    text = _encode_text(architecture, request.batch_size)
    live.stage = "sampling"
    plan = Plan(
        text=text,
        later_text=text,
        null_text=text if request.guidance else None,
        guidance_scale=1.0 if request.guidance else 0.0,
        noise=_meta(*shape),
        given=Given(noised, request.hidden) if request.given else None,
        noised=noised if request.given else None,
        window=Window(window, min(window - 1, round(CONTEXT_SHARE * window))) if rolls else Window(),
        solvers=Solvers(solver, solver),
        num_frames=request.num_frames,
        fps=settings["fps"],
    )
    at_once = request.frames_at_once or min(window, shape[1])
    noisy = live.during("sampling", sampled(architecture.flow, plan, at_once, lambda *_: None))
    clean = denoised(architecture.flow, architecture.denoiser, settings["noise_std"], noisy, text)
    num_decoded = 0

    def first_frames() -> Iterator[Tensor]:
        nonlocal num_decoded
        for piece in live.during("denoising", clean):
            if num_decoded < STEADY_FRAMES:
                num_decoded += piece.shape[1]
                yield piece[:, :STEADY_FRAMES]

    yield from live.during("decoding", codec.stream_decode(first_frames()))


class _LastSweep:
    """A solver that makes only the sweeps that take most: the first, and that of the last tokens to a full cache."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.cache = 0

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        assert isinstance(gaussians, ConditionalGaussians)
        gaussians.evaluate(v, start, min(start + self.block_size, stop))  # which takes in what is known
        first = max(start, stop - self.block_size)
        gaussians.cache.length = gaussians.num_text_tokens + first
        gaussians.evaluate(v, first, stop)
        self.cache = max(self.cache, gaussians.cache.buffer.nbytes)
        yield Progress(stop, Solution())


def _encode_text(architecture: Architecture, batch_size: int) -> Tensor:
    tokens = _meta(batch_size, architecture.settings["max_text_tokens"], dtype=torch.long)
    return architecture.text_encoder(input_ids=tokens, attention_mask=tokens).last_hidden_state


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


# --- weights ----------------------------------------------------------------------------------------------------------


def _weight_bytes(part: nn.Module, name: str, request: Request) -> int:
    return sum(_bytes_of(parameter, name, key, request) for key, parameter in part.named_parameters())


def _bytes_of(parameter: Tensor, name: str, key: str, request: Request) -> int:
    """Bytes of a weight; quantized are the matrices of the transformers' layers, with a scale for every 128 weights."""
    if request.quantize is None or not is_quantized(name, key) or parameter.ndim != 2:
        return parameter.numel() * request.dtype.itemsize
    return parameter.numel() * QUANTIZED_BITS[request.quantize] // 8 + parameter.numel() // 128 * 2


def is_quantized(part: str, key: str) -> bool:
    """Whether the weight `key` of a pipeline's part is one that quantization changes."""
    return part in ("flow", "denoiser") and ".layers." in f".{key}"


def _widened_weight(part: nn.Module, name: str, request: Request) -> int:
    """The largest quantized matrix as it is multiplied with."""
    if request.quantize is None:
        return 0
    sizes = [p.numel() for key, p in part.named_parameters() if is_quantized(name, key) and p.ndim == 2]
    return max(sizes, default=0) * request.dtype.itemsize


def _weights_on_device(architecture: Architecture, weights: dict[str, int], part: str, request: Request) -> int:
    if request.offload == "none":
        return sum(weights.values())
    if request.offload == "model":
        return weights[part]
    resident = sum(_bytes_outside_layers(architecture, name, request) for name in ("flow", "denoiser"))
    return resident + IN_FLIGHT * _largest_group(architecture, part, request)


def _bytes_outside_layers(architecture: Architecture, part: str, request: Request) -> int:
    """What group offloading leaves on the device of the flow or the denoiser, if there is one."""
    if part not in architecture.parts:
        return 0
    named = architecture.parts[part].named_parameters()
    return sum(_bytes_of(parameter, part, key, request) for key, parameter in named if "transformer." not in key)


def _largest_group(architecture: Architecture, part: str, request: Request) -> int:
    """What group offloading moves at once: a layer of a transformer, or a matrix or convolution of another part."""
    groups: dict[str, int] = {}
    for key, parameter in architecture.parts[part].named_parameters():
        layer = key.partition(".layers.")
        group = layer[0] + layer[2].split(".")[0] if layer[2] else key
        groups[group] = groups.get(group, 0) + _bytes_of(parameter, part, key, request)
    return max(groups.values())


# --- what would make it fit -------------------------------------------------------------------------------------------

# In the order of what they cost: nothing; time; a little exactness; much time.
REMEDIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--dtype bfloat16", {"dtype": torch.bfloat16}),
    ("--tiling", {"tiling": True}),
    ("--offload model", {"offload": "model"}),
    ("--quantize int8", {"quantize": "int8"}),
    ("--cache-dtype float8", {"cache_dtype": torch.float8_e4m3fn}),
    ("--quantize int4", {"quantize": "int4"}),
    ("--offload group", {"offload": "group"}),
)
# What a model without a denoiser cannot have, as the flow's own gradient denoises: it needs all layers, unpacked.
NOT_WITH_GRADIENTS = ("--quantize int4", "--offload group")
NOT_WHEN_SHARED = {"offload", "quantize"}  # by several processes, whose weights are split instead


def remedies(architecture: Architecture, request: Request, available: int) -> list[str] | None:
    """The flags that make a request fit into `available` bytes, no more of them than it takes; None if nothing does."""
    chosen: dict[str, dict[str, Any]] = {}
    if _fits(architecture, request, chosen, available):
        return []
    for flag, change in REMEDIES:
        if architecture.denoiser is None and flag in NOT_WITH_GRADIENTS:
            continue
        if request.processes > 1 and change.keys() & NOT_WHEN_SHARED:
            continue
        if replace(request, **change) != request:  # else it was asked for already
            superseded = {other for other, earlier in chosen.items() if earlier.keys() & change.keys()}
            chosen = {other: earlier for other, earlier in chosen.items() if other not in superseded} | {flag: change}
        if _fits(architecture, request, chosen, available):
            break
    else:
        return None
    for flag in list(chosen):
        fewer = {other: change for other, change in chosen.items() if other != flag}
        if _fits(architecture, request, fewer, available):
            chosen = fewer
    return list(chosen)


def _fits(architecture: Architecture, request: Request, changes: dict[str, dict[str, Any]], available: int) -> bool:
    for change in changes.values():
        request = replace(request, **change)
    return estimate_memory(architecture, request).peak <= available


def require_memory(architecture: Architecture, request: Request, available: int) -> None:
    """Raise UsageError, which names flags that would make it fit, if a request needs more than `available` bytes."""
    peak = estimate_memory(architecture, request).peak
    if peak <= available:
        return
    needed = f"this needs about {peak / GIB:.1f} GiB of memory, and the device has {available / GIB:.1f} GiB free"
    flags = remedies(architecture, request, available)
    if flags is None:
        raise UsageError(f"{needed}: make a smaller or shorter video")
    raise UsageError(f"{needed}: it would fit with {' '.join(flags)}, or as a smaller or shorter video")


def available_memory(device: str | torch.device) -> int | None:
    """Bytes that a device has free; None where that is not known, as for the CPU, which can swap, or one not there."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps" and torch.backends.mps.is_available():
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None
