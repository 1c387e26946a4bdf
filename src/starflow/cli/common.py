"""Shared by several commands: options of the model and of generation, loading, messages, the check for extras."""

from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from importlib.util import find_spec
from math import isfinite
from typing import TYPE_CHECKING, Any, get_args

import click

from starflow.cli.lora import Lora, apply_loras
from starflow.cli.quiet import hide_loading_bars
from starflow.errors import StarflowError
from starflow.hardware.fitting import Fitting
from starflow.hardware.ranks import Rank
from starflow.pipeline.options import Options
from starflow.startup import import_libraries
from starflow.weights.models import is_quantized

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from starflow.pipeline.pipeline import StarFlowPipeline

MAX_SEED = 2**64 - 1
SEED = click.IntRange(0, MAX_SEED)
DTYPES = ("float32", "bfloat16", "float16")
MODULES_OF_EXTRA = {
    "train": ("omegaconf", "peft", "tensorboard", "yaml"),
    "evaluate": ("scipy", "matplotlib"),
    "play": ("starlette", "uvicorn", "websockets"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "sqlalchemy", "prometheus_client"),
    "ray": ("ray",),
}


class FiniteFloat(click.FloatRange):
    """A number in a range that is neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def require_extra(extra: str) -> None:
    """Raise StarflowError, which says how to install the extra, if any of its modules is missing."""
    missing = [module for module in MODULES_OF_EXTRA[extra] if find_spec(module) is None]
    if missing:
        raise StarflowError(
            f"this command needs the extra {extra!r} ({', '.join(missing)} not found): in the repository, "
            f"pip install -c constraints.txt -e '.[{extra}]'"
        )


def say(message: str) -> None:
    """Print a message to stderr, so that stdout has only results."""
    click.echo(message, err=True)


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--device` and `--dtype`."""
    for option in (
        click.option(
            "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Precision of the weights."
        ),
        click.option("--device", help="Such as cpu, cuda or mps. [default: cuda or mps if available, else cpu]"),
    ):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--model`, `--device` and `--dtype`: what `load_pipeline` takes."""
    option = click.option(
        "--model", default="toyworld", show_default=True, help="A bundled model, a folder, or a hub id."
    )
    return option(device_options(command))


def input_fps_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--input-fps`: the frame rate of a clip that is a folder of frames."""
    return click.option(
        "--input-fps",
        type=click.FloatRange(0.01, 1000),
        help="Frame rate of a clip that is a folder of frames. [default: stored, or the model's]",
    )(command)


def start_loading(
    model: str,
    fitting: Fitting = Fitting(),
    loras: Sequence[Lora] = (),
) -> None:
    """Say that a model is being loaded, and import what `load_pipeline` needs: before anything that imports torch.

    Raises UsageError or StarflowError if there is no such model.
    """
    if Rank.of_this_process().rank == 0:
        say(f"loading {model} ...")
    import_libraries(quantized=fitting.quantize is not None or is_quantized(model), lora=bool(loras))


def load_pipeline(
    model: str,
    device: "str | torch.device | None",
    dtype: str,
    fitting: Fitting = Fitting(),
    mesh: "DeviceMesh | None" = None,
    loras: Sequence[Lora] = (),
) -> "StarFlowPipeline":
    """Load a model and adapters onto a device (default: the best available), shared by the processes of `mesh`.

    Raises StarflowError if the model or an adapter cannot be loaded, UsageError if there is no such device.
    """
    from starflow.hardware.placement import place

    hide_loading_bars()
    on_device = device_named(device) if device is None or isinstance(device, str) else device
    pipeline = fitting.load(model, on_device, dtype)
    pipeline.set_progress_bar_config(disable=None, leave=False)  # None: only on a terminal
    apply_loras(pipeline, loras)
    if mesh is not None:
        from starflow.hardware.parallel import parallelize

        for part in (pipeline.flow, pipeline.denoiser):
            if part is not None:
                parallelize(part, mesh)
    return place(pipeline, on_device, fitting.offload)


def device_named(name: str | None, rank: Rank = Rank()) -> "torch.device":  # noqa: B008 (it is immutable)
    """The device called `name` (default: the best available); if each process has its own, that of this process.

    Raises UsageError if there is no such device.
    """
    from starflow.hardware.placement import best_device, use_device

    return use_device(rank.device(name or best_device()))


def generation_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds the options of generation with these names in `Options`; None if not given."""
    declared = {each.name: each for each in fields(Options)}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            about = declared[name].metadata
            flag = f"--{name.replace('_', '-')}"
            help_text = f"{about['help']} [default: {about['default']}]"
            command = click.option(flag, type=_click_type(declared[name]), help=help_text)(command)
        return command

    return decorate


def _click_type(declared: Field) -> click.ParamType:
    """The type of an option of generation on the command line: a choice, or a number in a range."""
    about = declared.metadata
    if about["choices"] is not None:
        return click.Choice(about["choices"])
    is_open = about["above"] is not None
    bound = about["above"] if is_open else about["minimum"]
    if get_args(declared.type)[0] is int:
        return click.IntRange(bound, min_open=is_open)
    return FiniteFloat(bound, about["maximum"], min_open=is_open)
