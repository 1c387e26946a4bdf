"""The tables of `starflow score`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starflow.likelihood.score import Estimate, Likelihood


@dataclass
class Scored:
    """A clip and a caption, their likelihood under each model, and that of the empty caption if it was asked for."""

    clip: str
    caption: str
    likelihoods: "list[Likelihood]" = field(default_factory=list)
    empty: "list[Likelihood | None]" = field(default_factory=list)


def clip_table(rows: Sequence[Scored], noise_std: float) -> str:
    """The captions of one clip under one model, the likeliest first, and a line that names the best caption."""
    ranked = sorted(rows, key=lambda row: -row.likelihoods[0].log_likelihood.mean)
    best = ranked[0].likelihoods[0]
    num_samples, num_frames = best.deep.shape[:2]
    header, *table = _columns(ranked)
    header.append("latent frames (nats)")
    for line, row in zip(table, ranked, strict=True):
        line.append(" ".join(f"{nats:.1f}" for nats in row.likelihoods[0].per_frame.tolist()))
    lines = [
        f"{rows[0].clip}: {num_frames} latent frames, {best.num_dims} dimensions, {num_samples} "
        f"{'draw' if num_samples == 1 else 'draws'} of noise of standard deviation {noise_std:g}",
        *_aligned([[*header, "caption"], *([*line, row.caption] for line, row in zip(table, ranked, strict=True))]),
    ]
    if len(ranked) > 1:
        gain = best.gain(ranked[1].likelihoods[0])
        lines.append(f"fits best, by {_plus_minus(gain)} nats: {ranked[0].caption}")
    return "\n".join(lines)


def pairs_table(rows: Sequence[Scored], models: Sequence[str], *, with_difference: bool) -> str:
    """A line for each clip and caption; of two models, the nats per dimension of both, and their difference."""
    header, *table = _columns(rows) if len(models) == 1 else _side_by_side(rows, models, with_difference)
    ends = [f"{row.clip}  {row.caption}" for row in rows]
    return "\n".join(_aligned([[*header, "clip and caption"], *map(_appended, table, ends)]))


def _columns(rows: Sequence[Scored]) -> list[list[str]]:
    """The header, and the numbers of each row under the first model."""
    has_gain = rows[0].empty[0] is not None
    table = [["log-likelihood (nats)", "nats/dim", "bits/dim", *(["gain of the caption"] if has_gain else [])]]
    for row in rows:
        likelihood, empty = row.likelihoods[0], row.empty[0]
        numbers = [f"{likelihood.nats_per_dim:.4f}", f"{likelihood.bits_per_dim:.4f}"]
        gain = [] if empty is None else [_plus_minus(likelihood.gain(empty))]
        table.append([_plus_minus(likelihood.log_likelihood), *numbers, *gain])
    return table


def _side_by_side(rows: Sequence[Scored], models: Sequence[str], with_difference: bool) -> list[list[str]]:
    """The header, and the nats per dimension of each row under two models."""
    table = [[*(f"{model}, nats/dim" for model in models), *(["first is likelier by (nats)"] * with_difference)]]
    for row in rows:
        first, second = row.likelihoods
        numbers = [f"{first.nats_per_dim:.4f}", f"{second.nats_per_dim:.4f}"]
        table.append([*numbers, *([_plus_minus(first.gain(second))] if with_difference else [])])
    return table


def _plus_minus(estimate: "Estimate") -> str:
    error = "" if estimate.standard_error is None else f" ± {estimate.standard_error:.1f}"
    return f"{estimate.mean:.1f}{error}"


def _appended(line: list[str], end: str) -> list[str]:
    return [*line, end]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Right-align all columns but the last one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return ["  ".join([*map(str.rjust, row, widths), row[-1]]) for row in rows]
