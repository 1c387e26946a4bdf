"""What the tolerance costs and changes: evaluations, the difference to exact samples, how well captions are followed.

    python benchmarks/tolerance.py -o tolerance/ [--num-prompts 100] [--num-nudged 20] [--tolerances 0.001 0.01 …]

Makes clips of held-out toyworld captions from the same noise: with sequential sampling (exact), and with the sliding
window at each tolerance. A sample at tolerance tau is the exact sample of a noise that differs by at most tau from the
one drawn. To show what such a difference means, exact samples of noise that was changed at random by up to tau
("nudged") are compared too. Differences are the PSNR of the decoded frames in dB. Writes tolerance.json and
tolerance.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import harness
from starflow.media.frames import Frames, from_unit, psnr, to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import SamplingReport
from starflow.toyworld.evaluation.compliance import score
from starflow.toyworld.evaluation.prompts import Prompt, held_out_prompts
from starflow.toyworld.reader.checker import check

BATCH = 20


def make(
    pipeline: StarFlowPipeline, prompts: list[Prompt], noise: Tensor, sampler: str, tolerance: float | None
) -> tuple[Frames, SamplingReport]:
    """Clips, uint8 `(n, F, height, width, 3)`, and what the solvers did."""
    frames, report = [], SamplingReport()
    for first in range(0, len(noise), BATCH):
        captions = [prompt.caption for prompt in prompts[first : first + BATCH]]
        output = pipeline(
            captions,
            latents=noise[first : first + BATCH],
            sampler=sampler,
            tolerance=tolerance,
            output_type="np",
        )
        frames.append(from_unit(output.frames))
        report.deep += output.report.deep
        report.shallow += output.report.shallow
    return np.concatenate(frames), report


def psnr_summary(clips: Frames, exact: Frames) -> dict[str, float]:
    """PSNR of clips to the exact ones in dB: of the median clip and of the worst."""
    decibels = psnr(to_tensor(clips), to_tensor(exact[: len(clips)]))
    return {"psnr_median": decibels.quantile(0.5).item(), "psnr_worst": decibels.min().item()}


def row(prompts: list[Prompt], clips: Frames, exact: Frames) -> dict[str, Any]:
    """The difference of clips to the exact ones, and the share that follows each part of its caption."""
    held = score([check(frames, prompt.description) for frames, prompt in zip(clips, prompts, strict=True)])
    return {
        **psnr_summary(clips, exact),
        **{name: held[name] for name in ("color", "shape", "motion", "color_shape_motion")},
    }


def measure(pipeline: StarFlowPipeline, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for sequential sampling, then one for each tolerance."""
    prompts = held_out_prompts(0, arguments.num_prompts, 1)
    config, generator = pipeline.config, torch.Generator().manual_seed(0)
    shape = pipeline.codec.latent_shape(len(prompts), config.num_frames, config.height, config.width)
    noise = torch.randn(shape, generator=generator)
    signs = 2 * torch.rand(shape, generator=generator) - 1
    exact, report = make(pipeline, prompts, noise, "sequential", None)
    rows = [{"tolerance": 0.0, "evaluations_per_token": 1.0, "max_residual": 0.0, **row(prompts, exact, exact)}]
    print(
        f"{'tolerance':>10}{'evals/token':>12}{'median dB':>10}{'worst dB':>10}{'nudged dB':>10}{'all three right':>17}"
    )
    for tolerance in arguments.tolerances:
        clips, report = make(pipeline, prompts, noise, "sliding", tolerance)
        nudged, some = noise + tolerance * signs, slice(arguments.num_nudged)
        exact_of_nudged, _ = make(pipeline, prompts[some], nudged[some], "sequential", None)
        rows.append(
            {
                "tolerance": tolerance,
                "evaluations_per_token": report.deep.evaluations / report.deep.tokens,
                "max_residual": report.deep.max_residual,
                **{f"nudged_{name}": decibels for name, decibels in psnr_summary(exact_of_nudged, exact).items()},
                **row(prompts, clips, exact),
            }
        )
        last = rows[-1]
        print(
            f"{tolerance:>10}{last['evaluations_per_token']:>12.2f}{last['psnr_median']:>10.1f}{last['psnr_worst']:>10.1f}"
            f"{last['nudged_psnr_median']:>10.1f}{last['color_shape_motion']['value']:>17.1%}",
            flush=True,
        )
    return rows


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Difference to exact samples, compliance with the captions and cost over the tolerance."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    difference, compliance, cost = figure.subplots(1, 3)
    exact, *others = rows
    tolerances = [each["tolerance"] for each in others]
    for name, label in (
        ("psnr_median", "sliding, median clip"),
        ("psnr_worst", "sliding, worst clip"),
        ("nudged_psnr_median", "exact, noise nudged by up to tau, median"),
    ):
        difference.plot(tolerances, [each[name] for each in others], "o-", label=label)
    difference.set_ylabel("PSNR to the exact clip, dB")
    for name in ("color", "shape", "motion", "color_shape_motion"):
        label = name.replace("color_shape_motion", "all three")
        values = np.array([each[name]["value"] for each in others])
        bounds = np.array([each[name]["interval"] for each in others])
        (line,) = compliance.plot(tolerances, 100 * values, "o-", label=label)
        compliance.fill_between(tolerances, *(100 * bounds.T), alpha=0.12, color=line.get_color())
        compliance.axhline(100 * exact[name]["value"], ls=":", color=line.get_color())
    compliance.set_ylabel("captions followed, % (dotted: sequential)")
    cost.plot(tolerances, [each["evaluations_per_token"] for each in others], "o-")
    cost.set_ylabel("evaluations per token")
    cost.set_ylim(bottom=0)
    for axes in (difference, compliance, cost):
        axes.set_xscale("log")
        axes.set_xlabel("tolerance")
    for axes in (difference, compliance):
        axes.legend(frameon=False, fontsize="small")
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Print the table, write the files."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("--num-nudged", type=int, default=20)
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0])
    arguments = parser.parse_args(args)
    pipeline = harness.load(arguments.model)
    rows = measure(pipeline, arguments)
    harness.write_results(arguments.output / "tolerance.json", pipeline.device, model=arguments.model, rows=rows)
    harness.save_figure(draw(rows), arguments.output / "tolerance.png")


if __name__ == "__main__":
    harness.run(main)
