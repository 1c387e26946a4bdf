"""Finds the fastest `block_size` and `shallow_block_size` of the sliding window for a model on this machine.

    python benchmarks/block_sizes.py
    python benchmarks/block_sizes.py --batch-sizes 1 4 16 --store
    python benchmarks/block_sizes.py --model FOLDER --save

They are the numbers of tokens that the solver updates at once in the deep block and in the shallow blocks; 1 is token
by token. All sizes run in turn on clips of the model's length, at the model's tolerance. `--store` stores the size that
is fastest in the deep block, for each number of clips at once, for this machine (see `starflow.sampling.windows`); the
pipeline then uses it. `--save` stores the fastest sizes for one clip in the model's `model_index.json`, which holds for
machines without measurements.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import harness
from clocks import TimedSolver, timed
from starflow.flow.block import AffineBlock
from starflow.flow.model import StarFlow
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import Plan, SamplingReport, deep_frames, invert_shallow, solvers_named
from starflow.sampling.solvers import Solution, Solvers
from starflow.sampling.windows import store, stored_in

HEADER = f"{'blocks':<9}{'size':>7}{'seconds':>9}{'sweeps':>8}{'evals/token':>12}{'sweep/pass':>11}"


@dataclass(frozen=True)
class Row:
    """One size in the deep block (`blocks` is "deep") or in the shallow blocks ("shallow").

    `seconds` is the time in all these blocks, including the encoding of the text into the cache. It is the minimum over
    the repeats, which depends least on other work on the machine. `sweep_over_pass` is the time of a sweep with
    everything that the solver does, divided by the time of one parallel pass through such a block, without a cache,
    over the same number of tokens and branches.
    """

    blocks: str
    size: int
    seconds: float
    sweeps: int
    evaluations_per_token: float
    sweep_over_pass: float

    def __str__(self) -> str:
        return (
            f"{self.blocks:<9}{self.size:>7}{self.seconds:>9.3f}{self.sweeps:>8}{self.evaluations_per_token:>12.1f}"
            f"{self.sweep_over_pass:>11.2f}"
        )


@dataclass
class _Measured:
    """The repeats of one size in blocks of one kind."""

    seconds: list[float] = field(default_factory=list)
    solver_seconds: list[float] = field(default_factory=list)
    pass_seconds: list[float] = field(default_factory=list)
    done: Solution = field(default_factory=Solution)

    def row(self, blocks: str, size: int) -> Row:
        return Row(
            blocks,
            size,
            seconds=min(self.seconds),
            sweeps=self.done.sweeps,
            evaluations_per_token=self.done.evaluations / self.done.tokens,
            sweep_over_pass=min(self.solver_seconds) / self.done.sweeps / min(self.pass_seconds),
        )


@torch.no_grad()
def measure(
    pipeline: StarFlowPipeline, sizes: Sequence[int], repeats: int, seed: int, batch_size: int = 1
) -> list[Row]:
    """The rows of all sizes for `batch_size` clips at once, those of the deep block first."""
    flow = pipeline.flow
    prompts = [harness.PROMPTS[index % len(harness.PROMPTS)] for index in range(batch_size)]
    plan = pipeline.plan(prompts, generator=torch.Generator().manual_seed(seed)).sampling
    measured = {(blocks, size): _Measured() for blocks in ("deep", "shallow") for size in sizes}
    for repeat in range(repeats):
        for size in sizes:
            harness.show_progress(f"batch {batch_size}, repeat {repeat + 1} of {repeats}, {size} tokens at once")
            deep, shallow = measured["deep", size], measured["shallow", size]
            _sample(flow, plan, size, pipeline.config.tolerance, deep, shallow)
            branches, num_frames = 1 + bool(plan.guidance_weight), batch_size * plan.num_frames
            deep.pass_seconds.append(_one_pass(flow, flow.num_blocks - 1, branches * batch_size, deep.done, batch_size))
            shallow.pass_seconds.append(_one_pass(flow, 0, num_frames, shallow.done, num_frames))
    return [each.row(blocks, size) for (blocks, size), each in measured.items()]


def fastest(rows: Sequence[Row], blocks: str) -> int:
    """The size with the least time in these blocks."""
    return min((row for row in rows if row.blocks == blocks), key=lambda row: row.seconds).size


def _sample(flow: StarFlow, plan: Plan, size: int, tolerance: float, deep: _Measured, shallow: _Measured) -> None:
    """Sample the clip of `plan` once, and add the measurements."""
    named = solvers_named("sliding", tolerance=tolerance, block_size=size, shallow_block_size=size)
    deep_solver, shallow_solver = TimedSolver(named.deep), TimedSolver(named.shallow)
    timed_plan = replace(plan, solvers=Solvers(deep_solver, shallow_solver), report=SamplingReport())
    u, seconds = timed(lambda: torch.cat(list(deep_frames(flow, timed_plan)), dim=1))
    deep.seconds.append(seconds)
    deep.solver_seconds.append(deep_solver.seconds)
    shallow.seconds.append(timed(lambda: invert_shallow(flow, u, timed_plan))[1])
    shallow.solver_seconds.append(shallow_solver.seconds)
    deep.done, shallow.done = timed_plan.report.deep, timed_plan.report.shallow


def _one_pass(flow: StarFlow, index: int, rows: int, done: Solution, samples: int) -> float:
    """Seconds of a parallel pass of block `index` over the mean number of tokens of a sweep."""
    tokens = max(1, round(done.evaluations / done.sweeps / samples))
    block: AffineBlock = flow.blocks[index]  # type: ignore[assignment]
    rotation = flow.rotation(index, (1, 1, tokens))
    v = torch.zeros(rows, tokens, block.sos.shape[-1], device=rotation.device)
    return timed(lambda: block.predict(v, rotation))[1]


def save(model: Path, sizes: dict[str, int]) -> None:
    """Store settings in the `model_index.json` of a model's folder."""
    index = model / "model_index.json"
    settings = json.loads(index.read_text(encoding="utf-8")) | sizes
    harness.write_json(index, dict(sorted(settings.items())))  # as diffusers writes it


def main(args: Sequence[str] | None = None) -> None:
    """Print the tables and the fastest sizes. With `--store` and `--save`, store them."""
    parser = harness.new_parser(__doc__)
    parser.add_argument(
        "--sizes", type=harness.positive, nargs="+", default=[1, 2, 4, 8, 16, 32], help="tokens at once"
    )
    parser.add_argument("--batch-sizes", type=harness.positive, nargs="+", default=[1], help="clips at once")
    parser.add_argument("--repeats", type=harness.positive, default=5, help="seconds are the least of these")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--store", action="store_true", help="store the fastest for this machine")
    parser.add_argument("--save", action="store_true", help="store the fastest with the model, which must be a folder")
    harness.add_model_options(parser)
    options = parser.parse_args(args)
    if options.save and not Path(options.model).is_dir():
        parser.error(f"--save writes into the model's folder: --model must be a folder, not {options.model}")
    if options.save and 1 not in options.batch_sizes:
        parser.error("--save stores the sizes for one clip: --batch-sizes must have 1")
    pipeline = harness.load(options.model, options.device, options.dtype)
    best: dict[int, dict[str, int]] = {}
    for batch_size in options.batch_sizes:
        rows = measure(pipeline, options.sizes, options.repeats, options.seed, batch_size)
        best[batch_size] = {"block_size": fastest(rows, "deep"), "shallow_block_size": fastest(rows, "shallow")}
        print(f"{batch_size} at once", HEADER, *rows, sep="\n")
        deep, shallow = best[batch_size].values()
        print(f"fastest: {deep} in the deep block, {shallow} in the shallow blocks", flush=True)
    if options.store:
        store(pipeline.flow, {batch_size: sizes["block_size"] for batch_size, sizes in best.items()})
        print(f"stored in {stored_in()}")
    if options.save:
        save(Path(options.model), best[1])


if __name__ == "__main__":
    harness.run(main)
