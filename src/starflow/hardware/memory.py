"""The device memory for making a video, estimated before the model is loaded.

The real code of the pipeline's stages runs on the meta device, and the bytes of its live tensors are counted (see
`live_bytes`). The weights on the device in each stage are added, and `OVERHEAD` for the libraries of the device.

Legend: B prompts, T latent frames, D latent channels, H W latent rows and columns, M text tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from starflow.encoders.video import VideoCodec
from starflow.errors import UsageError
from starflow.flow.block import ConditionalGaussians
from starflow.hardware.architecture import Architecture
from starflow.hardware.free import available_memory
from starflow.hardware.live_bytes import LiveBytes
from starflow.hardware.parallel import share_of
from starflow.pipeline.pipeline import CONTEXT_SHARE
from starflow.pipeline.stages import denoised, sampled
from starflow.sampling.sampler import Plan, RollingWindow
from starflow.sampling.solvers import Gaussians, Progress, Solution, Solvers

Offload = Literal["none", "model", "group"]
Quantize = Literal["int8", "fp8", "int4"]

GIB = 2**30
SMALL_SHARE = 0.25  # of the free memory
OVERHEAD = GIB  # for the CUDA context and libraries, and for fragmentation in the allocator
QUANTIZED_BITS = {"int8": 8, "fp8": 8, "int4": 4}
STEADY_FRAMES = 3  # encoding or decoding more latent frames than this takes no more memory
STEADY_WINDOWS = 3  # a longer video takes more memory only for its noise and its samples
IN_FLIGHT = 2  # groups on the device with group offloading: one computes while the next is fetched

# The stages, and the part of the pipeline whose weights each needs. Without a denoiser, the flow denoises.
STAGES = {"text": "text_encoder", "encoding": "vae", "sampling": "flow", "denoising": "denoiser", "decoding": "vae"}


@dataclass(frozen=True)
class Request:
    """A video to make, and the options that affect memory.

    Args:
        height: in pixels.
        width: in pixels.
        num_frames: of the video.
        batch_size: videos made at once.
        guidance: whether guidance is used. It doubles the cache.
        dtype: of the weights and activations.
        cache_dtype: of the key/value cache; None for `dtype`.
        window: latent frames in the cache of the deep block; None for the number in a video of training.
        frames_at_once: latent frames that the stages after the deep block take at once; None for the window.
        given: number of given latent frames, the hidden ones included.
        hidden: number of given latent frames that are not part of the video (see `starflow.pipeline.inputs`).
        processes: processes that share the flow and the denoiser (see `parallel`). The estimate is for one of them.
        offload: see `placement`.
        quantize: see `quantization`.
        tiling: whether the VAE decodes in tiles.
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
    """Bytes on the device in one stage: the weights, and all other live tensors."""

    name: str
    weights: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.working


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory for a request, in bytes.

    `weights` has the weights of each part, wherever they are. `cache` is the deep block's key/value cache, for both
    branches of guidance; it is included in the stages.
    """

    weights: dict[str, int]
    cache: int
    stages: tuple[Stage, ...]

    @property
    def peak(self) -> int:
        """Bytes that must be free on the device."""
        return max(stage.total for stage in self.stages) + OVERHEAD


def estimate_memory(architecture: Architecture, request: Request) -> MemoryEstimate:
    """The peak device memory of a request, in each stage. Casts the architecture to the dtype of the request.

    Raises UsageError for a size or a number of frames that the VAE cannot make.
    """
    if request.processes > 1:
        architecture = _share(architecture, request.processes)
    # Offloading and quantization do not change the rest, so the cached result of the slow simulation is reused.
    cache, working = _simulate(architecture, replace(request, offload="none", quantize=None))
    weights = {name: _weight_bytes(part, name, request) for name, part in architecture.parts.items()}
    stages = []
    for name, part in STAGES.items():
        if name not in working:  # nothing is given that must be encoded
            continue
        part = part if part in weights else "flow"
        on_device = _weights_on_device(architecture, weights, part, request)
        stages.append(Stage(name, on_device, working[name] + _widened_weight(architecture.parts[part], part, request)))
    return MemoryEstimate(weights, cache, tuple(stages))


@lru_cache(maxsize=8)
def _share(architecture: Architecture, processes: int) -> Architecture:
    """The share of the model that one of several processes holds."""
    denoiser = None if architecture.denoiser is None else share_of(architecture.denoiser, processes)
    return replace(architecture, flow=share_of(architecture.flow, processes), denoiser=denoiser)


@lru_cache(maxsize=64)
@torch.no_grad()
def _simulate(architecture: Architecture, request: Request) -> tuple[int, dict[str, int]]:
    """Bytes of the deep block's cache, and the peak of live bytes in each stage."""
    for part in architecture.parts.values():
        nn.Module.to(part, request.dtype)  # the `to` of diffusers warns about casts
    architecture.vae.use_tiling = request.tiling
    architecture.flow.cache_dtype = request.cache_dtype
    solver = _LastSweep(architecture.settings.get("block_size", 16))
    steady, unseen_bytes = _shortened(architecture, request)
    with LiveBytes() as live:
        for _ in _make(architecture, steady, solver, live):
            pass
    return solver.cache, {stage: peak + unseen_bytes for stage, peak in live.peaks.items()}


def _shortened(architecture: Architecture, request: Request) -> tuple[Request, int]:
    """A request as long as `STEADY_WINDOWS`, at most, and the bytes of the noise and the samples that it lacks."""
    settings, codec = architecture.settings, VideoCodec(architecture.vae)
    longest = max(1 + STEADY_WINDOWS * (settings["num_frames"] - 1), request.given * codec.temporal_factor + 1)
    if request.num_frames <= longest or request.hidden or request.window is not None:
        return request, 0
    size = (request.height, request.width)
    whole = prod(codec.latent_shape(request.batch_size, request.num_frames, *size))
    rest = whole - prod(codec.latent_shape(request.batch_size, longest, *size))
    return replace(request, num_frames=longest), 2 * rest * torch.float32.itemsize


def _make(architecture: Architecture, request: Request, solver: "_LastSweep", live: LiveBytes) -> Iterator[Tensor]:
    """Run the stages as `StarFlowPipeline.stream` does, but decode only the first few frames."""
    settings, codec = architecture.settings, VideoCodec(architecture.vae)
    window = request.window or codec.num_latent_frames(settings["num_frames"])
    shape = codec.latent_shape(request.batch_size, request.num_frames, request.height, request.width)
    shape = (shape[0], shape[1] + request.hidden, *shape[2:])
    rolls = shape[1] > window > 1 and not request.hidden
    live.stage = "text"
    text = _encode_text(architecture, request.batch_size)
    if request.given:
        live.stage = "encoding"
        num_encoded = 1 + (min(request.given, STEADY_FRAMES) - 1) * codec.temporal_factor
        codec.encode(_meta(request.batch_size, num_encoded, 3, request.height, request.width))
    live.stage = "sampling"
    context = min(window - 1, round(CONTEXT_SHARE * window))
    plan = Plan(
        noise=_meta(*shape),
        text=text,
        null_text=text if request.guidance else None,
        guidance_weight=1.0 if request.guidance else 0.0,
        later_text=text,
        prefix=_meta(shape[0], request.given, *shape[2:]) if request.given else None,
        rolling_window=RollingWindow(window, context) if rolls else RollingWindow(),
        solvers=Solvers(solver, solver),
    )
    at_once = request.frames_at_once or min(window, shape[1])
    noisy = live.during("sampling", sampled(architecture.flow, plan, at_once))
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
    """A solver that does only the sweeps that need the most memory: the first, and the last, when the cache is full."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.cache = 0

    def __call__(
        self, gaussians: Gaussians, z: Tensor, v: Tensor, start: int, stop: int, frame_tokens: int
    ) -> Iterator[Progress]:
        assert isinstance(gaussians, ConditionalGaussians)
        gaussians.evaluate(v, start, min(start + self.block_size, stop))  # also adds the given tokens to the cache
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
    """Bytes of a weight. A quantized matrix also has a scale of 2 bytes for every 128 weights."""
    if request.quantize is None or not is_quantized(name, key) or parameter.ndim != 2:
        return parameter.numel() * request.dtype.itemsize
    return parameter.numel() * QUANTIZED_BITS[request.quantize] // 8 + parameter.numel() // 128 * 2


def is_quantized(part: str, key: str) -> bool:
    """Whether a weight is in a layer of a transformer, whose matrices are quantized."""
    return part in ("flow", "denoiser") and ".layers." in f".{key}"


def _widened_weight(part: nn.Module, name: str, request: Request) -> int:
    """Bytes of the largest quantized matrix, in the dtype in which it is multiplied."""
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
    """Bytes of the flow or the denoiser, if there is one, that group offloading leaves on the device."""
    if part not in architecture.parts:
        return 0
    named = architecture.parts[part].named_parameters()
    return sum(_bytes_of(parameter, part, key, request) for key, parameter in named if "transformer." not in key)


def _largest_group(architecture: Architecture, part: str, request: Request) -> int:
    """Bytes of the largest group that group offloading moves: a layer of a transformer, or else a single weight."""
    groups: dict[str, int] = {}
    for key, parameter in architecture.parts[part].named_parameters():
        layer = key.partition(".layers.")
        group = layer[0] + layer[2].split(".")[0] if layer[2] else key
        groups[group] = groups.get(group, 0) + _bytes_of(parameter, part, key, request)
    return max(groups.values())


# --- how to make it fit -----------------------------------------------------------------------------------------------

# Ordered by cost: none, some time, some accuracy, much time.
REMEDIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--dtype bfloat16", {"dtype": torch.bfloat16}),
    ("--tiling", {"tiling": True}),
    ("--offload model", {"offload": "model"}),
    ("--quantize int8", {"quantize": "int8"}),
    ("--cache-dtype float8", {"cache_dtype": torch.float8_e4m3fn}),
    ("--quantize int4", {"quantize": "int4"}),
    ("--offload group", {"offload": "group"}),
)
# A model without a denoiser denoises with the gradient of the flow. This needs all layers at once, and not in int4.
NOT_WITH_GRADIENTS = ("--quantize int4", "--offload group")
NOT_WHEN_SHARED = {"offload", "quantize"}  # not supported for several processes, which split the weights instead


def remedies(architecture: Architecture, request: Request, available: int, *, on_cpu: bool = False) -> list[str] | None:
    """The flags with which a request fits into `available` bytes, without unnecessary ones; None if it cannot fit."""
    chosen: dict[str, dict[str, Any]] = {}
    if _fits(architecture, request, chosen, available):
        return []
    for flag, change in REMEDIES:
        if architecture.denoiser is None and flag in NOT_WITH_GRADIENTS:
            continue
        if request.processes > 1 and change.keys() & NOT_WHEN_SHARED:
            continue
        if on_cpu and "offload" in change:  # to the CPU
            continue
        if replace(request, **change) != request:  # otherwise the request has the option already
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


def require_memory(architecture: Architecture, request: Request, device: torch.device) -> None:
    """Raise UsageError if a device has too little free memory for a request. The message names flags that help.

    If it is unknown how much is free, nothing is checked. On the CPU, a video no larger than those of training needs no
    check if the weights take only a small share of the memory.
    """
    available, on_cpu = available_memory(device), device.type == "cpu"
    if available is None:
        return
    if on_cpu:
        request = replace(request, offload="none")  # what is offloaded stays in the same memory
        if _is_small(architecture, request, available):
            return
    peak = estimate_memory(architecture, request).peak
    if peak <= available:
        return
    where = "this machine" if on_cpu else "the device"
    needed = f"this needs about {peak / GIB:.1f} GiB of memory, but {where} has {available / GIB:.1f} GiB free"
    flags = remedies(architecture, request, available, on_cpu=on_cpu)
    if flags is None:
        raise UsageError(f"{needed}: make a smaller or shorter video")
    raise UsageError(f"{needed}: add {' '.join(flags)}, or make a smaller or shorter video")


def _is_small(architecture: Architecture, request: Request, available: int) -> bool:
    """Whether a request is no larger than a video of training, and the weights fill little of the memory."""
    settings = architecture.settings
    weights = sum(_weight_bytes(part, name, request) for name, part in architecture.parts.items())
    pixels = (size["height"] * size["width"] * size["num_frames"] for size in (vars(request), settings))
    return weights < SMALL_SHARE * (available - OVERHEAD) and next(pixels) <= next(pixels)
