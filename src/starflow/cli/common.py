"""What several commands share: the options of the sampler, and the check that an extra is installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import click

from starflow.errors import StarflowError

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


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--guidance-scale`, `--sampler` and `--tolerance`; None where they are not given."""
    for option in (
        click.option(
            "--tolerance",
            type=click.FloatRange(0, min_open=True),
            help="Largest error of the sampler, in units of the noise. [default: the model's]",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["block-jacobi", "sequential"]),
            help="How the flow is inverted. [default: the model's]",
        ),
        click.option(
            "--guidance-scale",
            type=click.FloatRange(0),
            help="Strength of guidance by the caption; 0 is none. [default: the model's]",
        ),
    ):
        command = option(command)
    return command
