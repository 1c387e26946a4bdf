"""Sweeps of the bundled model's deep block as CUDA graphs, beside the same sweeps launched one operation at a time.

A graph needs tensors of fixed shapes at fixed places. So the windows of all clips have one length, their places are in
tensors, and attention goes over the whole cache behind a mask. On the CPU (`--tiny`) the same operations run without a
graph, which proves that they compute what `evaluate_windows` does.

Predicted before any run: an operation takes 9.5 µs to launch and a sweep has about 190 (27 per layer), so a sweep of
one clip takes 1.8 ms; as a graph, where an operation takes about 2 µs, it takes 0.4 ms. At 64 clips of 16 tokens, the
arithmetic of a sweep (19 GFLOP in float32) takes 0.5 ms, so a graph takes 0.6 ms.
"""

import torch
from torch import Tensor

from measure import Results, median_ms
from starflow.flow.block import ConditionalGaussians, packed
from starflow.flow.transformer import RaggedAttend
from starflow.pipeline.pipeline import StarFlowPipeline

PROMPT = "a red circle moves right"
GUIDANCE_WEIGHT = 2.0
START = 32  # tokens before the first window


class WindowGraph:
    """A sweep over windows of `width` tokens in each of `batch_size` clips, as a CUDA graph if there is CUDA."""

    def __init__(self, gaussians: ConditionalGaussians, batch_size: int, width: int) -> None:
        self.gaussians, self.width = gaussians, width
        weight = gaussians.block.proj_in.weight
        self.rows, self.tokens, self.offsets = packed([range(START, START + width)] * batch_size, weight.device)
        self.previous = weight.new_zeros(len(self.rows), gaussians.block.sos.shape[-1])
        self.graph: torch.cuda.CUDAGraph | None = None
        if weight.is_cuda:
            self._run()  # once outside, as libraries allocate at their first call
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.output = self._run()

    def __call__(self, v: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`mu, sigma` `(n, D)` of the windows whose `tokens` are `(n,)`, given `v` `(B, N, D)`."""
        self.tokens.copy_(tokens)
        self.previous.copy_(v[self.rows, tokens - 1])
        if self.graph is None:
            return self._run()
        self.graph.replay()
        return self.output

    def _run(self) -> tuple[Tensor, Tensor]:
        gaussians, branches = self.gaussians, self.gaussians.branches
        num_clips = gaussians.cache.buffer.shape[2] // branches
        h = gaussians.block.embed(self.previous[None]).repeat(1, branches, 1)
        places = (gaussians.num_text_tokens + self.tokens).repeat(branches)
        rows = torch.cat([self.rows + branch * num_clips for branch in range(branches)])
        gaussians.cache.length = gaussians.cache.capacity
        attend = RaggedAttend(gaussians.cache, rows, places, self.offsets.repeat(branches), self.width, h)
        h = gaussians.block.transformer(h, gaussians.rotation[places], attend)
        mu, sigma = gaussians._guided(h.unflatten(1, (branches, -1))[0], gaussians.guidance_weight)
        return mu[0], sigma[0]


@torch.no_grad()
def measure(results: Results, tiny: bool) -> None:
    """Each batch and window: milliseconds launched and as a graph, and the largest difference of the means."""
    pipeline = StarFlowPipeline.from_pretrained("toyworld", dtype=torch.float32).to(results.device)
    pipeline.set_progress_bar_config(disable=True)
    for batch_size in (2,) if tiny else (1, 8, 64):
        for width in (4,) if tiny else (1, 16, 32):
            with results.attempt(f"{batch_size} clips, {width} tokens"):
                _compare(results, pipeline, batch_size, width)


def _compare(results: Results, pipeline: StarFlowPipeline, batch_size: int, width: int) -> None:
    flow, plan = pipeline.flow, pipeline.plan([PROMPT] * batch_size).sampling
    grid = (plan.num_frames, *plan.noise.shape[3:])
    gaussians = flow.conditional(
        flow.num_blocks - 1, batch_size, grid, plan.text, plan.null_text, guidance_weight=GUIDANCE_WEIGHT
    )
    v = torch.randn(batch_size, gaussians.num_tokens, flow.config["latent_channels"], device=results.device)
    windows = [range(START + row % 2, START + row % 2 + width) for row in range(batch_size)]
    graph = WindowGraph(gaussians, batch_size, width)  # before the cache is filled: its first run writes there
    gaussians.evaluate(v, 0, START + 1)
    want, _ = gaussians.evaluate_windows(v, windows)
    launched_ms = median_ms(lambda: gaussians.evaluate_windows(v, windows), results.device)
    tokens = packed(windows, results.device)[1]
    got, _ = graph(v, tokens)
    results.add(
        "graphs",
        batch=batch_size,
        tokens=width,
        launched_ms=launched_ms,
        graph_ms=median_ms(lambda: graph(v, tokens), results.device),
        difference=(got - want).abs().max().item(),
    )
