"""`starflow info`: the size of a model and the memory that a video needs, without loading the model."""

from typing import TYPE_CHECKING, Any

import click

from starflow.cli.common import DTYPES, say
from starflow.cli.fitting import fitting_options
from starflow.errors import UsageError
from starflow.hardware.fitting import Fitting
from starflow.startup import import_libraries

if TYPE_CHECKING:
    from starflow.flow.actions import ActionSpace
    from starflow.hardware.architecture import Architecture
    from starflow.hardware.memory import MemoryEstimate


@click.command()
@click.argument("model")
@click.option("--size", help="WIDTHxHEIGHT in pixels. [default: the model's]")
@click.option("--num-frames", type=click.IntRange(1), help="Frames of the video. [default: the model's]")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Videos made at once.")
@click.option("--no-guidance", is_flag=True, help="Sample without guidance, which halves the cache.")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True, help="Precision of the weights."
)
@fitting_options
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that share the model under torchrun; the figures are for one of them.",
)
@click.option(
    "--memory", type=click.FloatRange(0, min_open=True), help="Name options that make it fit into so many GiB."
)
def info(
    model: str,
    size: str | None,
    num_frames: int | None,
    batch_size: int,
    no_guidance: bool,
    dtype: str,
    processes: int,
    memory: float | None,
    **fitting: Any,
) -> None:
    """Show the size of MODEL, and the memory that a video needs in each stage.

    Only configuration files are read. The figures are computed, not measured.

    \b
    starflow info starflow-v-7b
    starflow info starflow-v-7b --size 640x640 --offload model --memory 24
    """
    say(f"reading the configuration of {model} ...")
    import_libraries(quantized=False)

    import torch

    from starflow.hardware.architecture import load_architecture
    from starflow.hardware.memory import GIB, Request, estimate_memory, remedies
    from starflow.media.sizes import parse_size

    architecture = load_architecture(model)
    settings = architecture.settings
    width, height = parse_size(size) if size is not None else (settings["width"], settings["height"])
    chosen = Fitting(**fitting)
    chosen.check(architecture, processes)
    request = Request(
        height=height,
        width=width,
        num_frames=settings["num_frames"] if num_frames is None else num_frames,
        batch_size=batch_size,
        guidance=not no_guidance,
        dtype=getattr(torch, dtype),
        processes=processes,
    )
    request = chosen.applied_to(request)
    estimate = estimate_memory(architecture, request)
    for line in [*_table(architecture, estimate), *_actions(architecture)]:
        click.echo(line)
    frames = "an image" if request.num_frames == 1 else f"{request.num_frames} frames"
    click.echo(f"{width}×{height}, {frames}, batch of {batch_size}: at most {estimate.peak / GIB:.1f} GiB")
    if memory is not None:
        flags = remedies(architecture, request, int(memory * GIB))
        if flags is None:
            raise UsageError(f"no options make it fit into {memory:g} GiB: choose a smaller or shorter video")
        click.echo(f"fits into {memory:g} GiB" + (f" with {' '.join(flags)}" if flags else ""))


def _table(architecture: "Architecture", estimate: "MemoryEstimate") -> list[str]:
    """The parameters of each part, and the memory of each stage in GiB."""
    from starflow.hardware.memory import GIB, OVERHEAD

    lines = [f"{'part':14}{'parameters':>16}{'weights':>10}"]
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in architecture.parts.items()}
    for name, count in counts.items():
        lines.append(f"{name:14}{count:16,}{estimate.weights[name] / GIB:10.2f}")
    lines.append(f"{'all':14}{sum(counts.values()):16,}{sum(estimate.weights.values()) / GIB:10.2f}")
    lines += ["", f"{'stage':14}{'on the device':>16}{'working':>10}{'both':>10}"]
    for stage in estimate.stages:
        sizes = (stage.weights, stage.working, stage.total)
        lines.append(
            f"{stage.name:14}" + "".join(f"{n / GIB:{w}.2f}" for n, w in zip(sizes, (16, 10, 10), strict=True))
        )
    cache = f"{estimate.cache / GIB:.2f} of sampling is the key/value cache"
    return [*lines, f"in GiB; {cache}; the device's libraries need {OVERHEAD / GIB:g} more", ""]


def _actions(architecture: "Architecture") -> list[str]:
    """A line for each number of an action of the model, if it takes actions."""
    space: ActionSpace | None = architecture.parts["flow"].action_space  # type: ignore[assignment]
    if space is None:
        return []
    lines = []
    for component, (low, high) in enumerate(space.ranges):
        kind = "a whole number from" if space.is_discrete else "in"
        names = space.names[component] if space.names else ()
        values = range(len(names)) if space.is_discrete else (low, high)
        named = ", ".join(f"{value:g} {name}" for value, name in zip(values, names, strict=True) if name)
        lines.append(f"action, number {component}: {kind} {low:g} to {high:g}{f' ({named})' if named else ''}")
    return [*lines, ""]
