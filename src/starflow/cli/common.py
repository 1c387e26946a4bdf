"""What several commands share: options of model and sampler, loading it, words to the user, the check for extras."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from starflow.cli.fitting import Fitting
from starflow.cli.quiet import hide_loading_bars
from starflow.errors import StarflowError, UsageError
from starflow.hardware.ranks import Rank

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from starflow.pipeline.pipeline import StarFlowPipeline

DTYPES = ("float32", "bfloat16", "float16")
MODULES_OF_EXTRA = {
    "train": ("omegaconf", "yaml", "tensorboard"),
    "evaluate": ("skimage", "scipy", "matplotlib"),
}


def require_extra(extra: str) -> None:
    """Raise StarflowError, which says how to install it, unless what the extra brings is there."""
    missing = [module for module in MODULES_OF_EXTRA[extra] if find_spec(module) is None]
    if missing:
        raise StarflowError(
            f"this command needs the extra {extra!r} ({', '.join(missing)} not found): in the repository, "
            f"pip install -c constraints.txt -e '.[{extra}]'"
        )


def say(message: str) -> None:
    """Tell the user beside the output: on stderr."""
    click.echo(message, err=True)


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--device` and `--dtype`."""
    for option in (
        click.option(
            "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Precision of the weights."
        ),
        click.option("--device", help="cpu, cuda, mps, … [default: the best there is]"),
    ):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--model`, `--device` and `--dtype`: what `load_pipeline` takes."""
    option = click.option(
        "--model", default="toyworld", show_default=True, help="A bundled model, a folder, or a hub id."
    )
    return option(device_options(command))


def load_pipeline(
    model: str,
    device: "str | torch.device | None",
    dtype: str,
    fitting: Fitting = Fitting(),  # noqa: B008 (it is frozen)
    mesh: "DeviceMesh | None" = None,
) -> "StarFlowPipeline":
    """The model on its device (by default the best there is), shared by the processes of `mesh` if there is one.

    Raises StarflowError if it cannot be loaded, UsageError if there is no such device.
    """
    import torch

    from starflow.hardware.placement import place
    from starflow.hardware.quantization import quantization_config
    from starflow.pipeline.pipeline import StarFlowPipeline

    hide_loading_bars()
    on_device = device_named(device) if device is None or isinstance(device, str) else device
    options: dict[str, Any] = {}
    if fitting.quantize is not None:
        options["quantization_config"] = quantization_config(fitting.quantize, on_device)
    if fitting.quantize == "int4" and on_device.type != "cpu":
        options["device_map"] = on_device.type
    pipeline = StarFlowPipeline.from_pretrained(model, dtype=getattr(torch, dtype), **options)
    pipeline.set_progress_bar_config(disable=None, leave=False)  # None: only where a person is looking
    pipeline.flow.cache_dtype = fitting.torch_cache_dtype
    if fitting.tiling:
        pipeline.vae.enable_tiling()
    if mesh is not None:
        from starflow.hardware.parallel import parallelize

        for part in (pipeline.flow, pipeline.denoiser):
            if part is not None:
                parallelize(part, mesh)
    return place(pipeline, on_device, fitting.offload)


def device_named(name: str | None, rank: Rank = Rank()) -> "torch.device":  # noqa: B008 (it is immutable)
    """The device that a user names, or else the best there is; that of this process, if each has its own.

    Raises UsageError for what is no device's name, or a GPU that is not there.
    """
    import torch

    try:
        device = torch.device(rank.device(name or _best_device()))
        if device.type == "cuda" and device.index is not None and torch.cuda.is_available():
            torch.cuda.set_device(device)  # what libraries mean by "cuda"
    except RuntimeError as error:
        raise UsageError(f"cannot use the device {name}: {str(error).splitlines()[0]}") from error
    return device


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--guidance-scale`, `--sampler` and `--tolerance`; None where they are not given."""
    for option in (
        click.option(
            "--tolerance",
            type=click.FloatRange(0, min_open=True),
            help="How exact a video is: it is the exact one of a noise that differs nowhere from the seed's by more "
            "than this (that noise has a standard deviation of 1). Smaller takes longer. [default: the model's]",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["sliding", "block-jacobi", "sequential"]),
            help="How the flow is inverted: sliding, a window of tokens at once, within --tolerance (fastest); "
            "block-jacobi, blocks of tokens at once, within it too; sequential, token by token, exact. "
            "[default: the model's]",
        ),
        click.option(
            "--guidance-scale",
            type=click.FloatRange(0),
            help="Strength of guidance by the caption; 0 is none. [default: the model's]",
        ),
    ):
        command = option(command)
    return command
