"""Timing passes through the blocks of a flow, as `works.py` lists them."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from measure import Results, median_ms
from starflow.flow.block import AffineBlock, ConditionalGaussians
from starflow.flow.model import StarFlow
from works import Work, cost_of


@torch.no_grad()
def time_works(
    results: Results, flow: StarFlow, works: Sequence[Work], grid: tuple[int, int, int], num_text_tokens: int
) -> None:
    """Add a row to the table `works` for each; `grid` `(T, H, W)` is the largest that the deep block's sweeps need."""
    for kind, block, rows in dict.fromkeys((work.kind, work.block, work.rows) for work in works):
        chosen = [work for work in works if (work.kind, work.block, work.rows) == (kind, block, rows)]
        with results.attempt(f"{kind} of the {block} block, {rows} rows"):
            clock = _Clock(flow, grid, num_text_tokens, block, rows)
            for work in chosen:
                with results.attempt(str(work)):
                    ms = clock.pass_ms(work) if kind == "pass" else clock.sweep_ms(work)
                    results.add("works", **work.key, ms=ms, **asdict(cost_of(work, flow, num_text_tokens)))
            del clock


class _Clock:
    """One block and its cache, which is full of random keys and values."""

    def __init__(self, flow: StarFlow, grid: tuple[int, int, int], num_text_tokens: int, block: str, rows: int) -> None:
        self.flow, self.rows = flow, rows
        self.is_deep = block == "deep"
        self.index = flow.num_blocks - 1 if self.is_deep else 0
        self.grid = grid if self.is_deep else (1, *grid[1:])
        self.weight = flow.deep.proj_in.weight
        text_width = flow.config["text_width"]
        self.text = self._randn(rows, num_text_tokens, text_width) if self.is_deep else None
        self.gaussians: ConditionalGaussians | None = None

    def pass_ms(self, work: Work) -> float:
        """One parallel pass without a cache."""
        num_frames = work.tokens // (self.grid[1] * self.grid[2])
        num_text_tokens = 0 if self.text is None else self.text.shape[1]
        rotation = self.flow.rotation(self.index, (num_frames, *self.grid[1:]), num_text_tokens)
        v = self._randn(self.rows, work.tokens, self.flow.config["latent_channels"])
        block: AffineBlock = self.flow.blocks[self.index]  # type: ignore[assignment]
        return median_ms(lambda: block.predict(v, rotation, self.text), self.weight.device)

    def sweep_ms(self, work: Work) -> float:
        """One evaluation behind cached tokens; the deep block's two branches count as rows of their own."""
        if self.gaussians is None:
            self.gaussians = self._gaussians()
        gaussians, cached = self.gaussians, self.gaussians.num_text_tokens + work.cached
        v = self._randn(self.rows // gaussians.branches, gaussians.num_tokens, self.flow.config["latent_channels"])

        def sweep() -> None:
            gaussians.cache.length = cached
            gaussians.evaluate(v, work.cached, work.cached + work.tokens)

        return median_ms(sweep, self.weight.device)

    def _gaussians(self) -> ConditionalGaussians:
        if self.text is None:
            gaussians = self.flow.conditional(self.index, self.rows, self.grid)
        else:
            samples = self.rows // 2
            text, null_text = self.text[:samples], self.text[samples:]
            gaussians = self.flow.conditional(self.index, samples, self.grid, text, null_text, 3.5)
        gaussians.cache.buffer.normal_()
        return gaussians

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.weight.device)
