"""The passes through the flow's blocks that are timed, what each costs at least, and the milliseconds predicted.

FLOPs are those of matrix products and attention, bytes those of weights and cached keys and values: what any
implementation must do. Legend: `L` layers, `C` width, `n` new tokens, `m` cached ones, text included.
"""

from dataclasses import asdict, dataclass
from typing import Any

from starflow.flow.model import StarFlow

CLIP_FRAMES, CLIP_FRAME_TOKENS = 21, 30 * 53  # of the released video model: 81 frames of 848×480
IMAGE_TOKENS = 32 * 32
BYTES = 2  # of bfloat16


@dataclass(frozen=True)
class Ceilings:
    """What a device can do: FLOP/s of matrix products, bytes/s of its memory, and seconds to launch an operation."""

    matrix_rate: float
    bandwidth: float
    launch: float


@dataclass(frozen=True)
class Work:
    """An evaluation of `tokens` in `rows` sequences, behind `cached` ones; of the deep block text comes on top.

    A `pass` has no cache, a `sweep` has one. In the deep block there are two rows for each sample, as guidance is on.
    """

    model: str
    kind: str
    block: str
    rows: int
    tokens: int
    cached: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the work in results."""
        return asdict(self)


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes that some work takes at least, and the operations that it is launched as."""

    flops: float
    bytes: float
    launches: float

    def floor_ms(self, ceilings: Ceilings) -> float:
        """The least time that the device's arithmetic and memory allow."""
        return 1000 * max(self.flops / ceilings.matrix_rate, self.bytes / ceilings.bandwidth)


# Kernels of a layer that follow one another: norms, products, rotation and its casts, cache, attention, residuals.
LAUNCHES_PER_LAYER = 24

# What a prediction made without any GPU assumes: of an H100's dense bfloat16 rate and of its bandwidth the share that
# unfused PyTorch reaches, and the time in which Python launches one operation.
ASSUMED = Ceilings(matrix_rate=0.6 * 800e12, bandwidth=0.8 * 3.0e12, launch=6e-6)


def video_works(tiny: bool) -> list[Work]:
    """Deep block over a clip and in windows at four lengths of the cache; shallow blocks on one frame and on all."""
    frames, frame = (3, 24) if tiny else (CLIP_FRAMES, CLIP_FRAME_TOKENS)
    windows = (1, 4, 8, 24, 48) if tiny else (1, 128, 512, 1590, 3180)
    cached = (0, 12, 24, 48) if tiny else (0, 8192, 16384, 32768)
    return [
        *(Work("video", "pass", "deep", rows, frames * frame) for rows in (1, 2)),
        *(Work("video", "sweep", "deep", 2, window, length) for length in cached for window in windows),
        *(Work("video", "pass", "shallow", rows, frame) for rows in (1, frames)),
        *(Work("video", "sweep", "shallow", rows, n, frame // 2) for rows in (1, frames) for n in windows[:3]),
    ]


def image_works(tiny: bool) -> list[Work]:
    """The same of one image and of a batch of eight."""
    tokens = 64 if tiny else IMAGE_TOKENS
    windows = (1, 4, 8) if tiny else (1, 64, 256)
    works = []
    for batch in (1, 8):
        works += [
            Work("image", "pass", "deep", 2 * batch, tokens),
            *(Work("image", "sweep", "deep", 2 * batch, n, tokens // 2) for n in windows),
            Work("image", "pass", "shallow", batch, tokens),
            *(Work("image", "sweep", "shallow", batch, n, tokens // 2) for n in windows),
        ]
    return works


def cost_of(work: Work, flow: StarFlow, num_text_tokens: int) -> Cost:
    """What a work takes at least in a flow, whose weights and cache are in bfloat16."""
    block = flow.deep if work.block == "deep" else flow.shallow[0]
    layers, width = len(block.transformer.layers), block.proj_in.out_features
    text = num_text_tokens if work.block == "deep" else 0
    n, m = (work.tokens, text + work.cached) if work.kind == "sweep" else (text + work.tokens, 0)
    return transformer_cost(layers, width, work.rows, n, m)


def transformer_cost(layers: int, width: int, rows: int, n: int, m: int) -> Cost:
    """`n` tokens behind `m` cached ones, through `L` layers of 12·C² weights; queries meet keys in Q·K and P·V."""
    weights = 12 * layers * width**2
    keys = n * m + n * (n + 1) / 2
    flops = rows * (2 * weights * n + 4 * layers * width * keys)
    cache = rows * layers * 2 * width * m
    return Cost(flops, BYTES * (weights + cache), LAUNCHES_PER_LAYER * layers)


def predicted_ms(cost: Cost, ceilings: Ceilings = ASSUMED) -> float:
    """Milliseconds that a work is predicted to take: its floor, or the launches where those take longer."""
    return max(cost.floor_ms(ceilings), 1000 * cost.launches * ceilings.launch)
