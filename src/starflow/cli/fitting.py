"""The options of commands that make a model fit a device."""

from collections.abc import Callable
from typing import Any

import click


def fitting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--offload`, `--quantize`, `--cache-dtype` and `--tiling`: the attributes of `Fitting`."""
    for option in (
        click.option("--tiling", is_flag=True, help="Decode large frames in tiles, which saves memory."),
        click.option(
            "--cache-dtype",
            type=click.Choice(["bfloat16", "float8"]),
            help="Precision of the key/value cache. [default: that of the weights]",
        ),
        click.option(
            "--quantize",
            type=click.Choice(["int8", "fp8", "int4"]),
            help="Quantize the weights of flow and denoiser. [default: no]",
        ),
        click.option(
            "--offload",
            type=click.Choice(["none", "model", "group"]),
            default="none",
            show_default=True,
            help="Keep on the CPU: nothing, the parts not in use (model), or the layers not in use (group).",
        ),
    ):
        command = option(command)
    return command
